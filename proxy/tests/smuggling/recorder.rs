//! An upstream that writes down every byte it gets, and answers what it can read as whole requests.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex},
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

/// What came since [`Recorder::forget`].
#[derive(Clone, Debug, Default)]
pub(crate) struct Recorded {
    pub(crate) bytes: Vec<u8>,
    /// Whole ones, read as strictly as can be.
    pub(crate) requests: usize,
    /// What could be read in two ways, or came behind a request.
    pub(crate) unsound: Vec<String>,
}

pub(crate) struct Recorder {
    pub(crate) address: SocketAddr,
    recorded: Arc<Mutex<Recorded>>,
}

impl Recorder {
    pub(crate) async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (address, recorded) = (listener.local_addr().unwrap(), Arc::<Mutex<Recorded>>::default());
        let to = recorded.clone();
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                tokio::spawn(serve(stream, to.clone()));
            }
        });
        Self { address, recorded }
    }

    pub(crate) fn forget(&self) {
        *self.recorded.lock().unwrap() = Recorded::default();
    }

    pub(crate) fn recorded(&self) -> Recorded {
        self.recorded.lock().unwrap().clone()
    }
}

/// One request a connection, so that what one case leaves behind does not meet the next.
async fn serve(mut stream: TcpStream, recorded: Arc<Mutex<Recorded>>) {
    let mut read = Vec::new();
    loop {
        let before = read.len();
        if !matches!(stream.read_buf(&mut read).await, Ok(1..)) {
            return;
        }
        recorded.lock().unwrap().bytes.extend(&read[before..]);
        let whole = whole(&read);
        if whole.as_ref().map_or_else(|_| true, |length| length.is_some_and(|length| length != read.len())) {
            return recorded.lock().unwrap().unsound.push(String::from_utf8_lossy(&read).into_owned());
        }
        if let Ok(Some(_)) = whole {
            recorded.lock().unwrap().requests += 1;
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n").await;
            return;
        }
    }
}

/// The bytes are no sound request.
struct Unsound;

/// The length of the request that `bytes` begins with, if it is all there.
fn whole(bytes: &[u8]) -> Result<Option<usize>, Unsound> {
    let Some(head) = find(bytes, b"\r\n\r\n").map(|end| end + 4) else { return Ok(None) };
    let text = String::from_utf8_lossy(&bytes[..head]).to_lowercase();
    let mut lines = text.split("\r\n");
    let line: Vec<&str> = lines.next().unwrap_or_default().split(' ').collect();
    let fields: Vec<(&str, &str)> =
        lines.filter(|line| !line.is_empty()).map(|line| line.split_once(':')).collect::<Option<_>>().ok_or(Unsound)?;
    let odd = |c: char| c.is_control() && c != '\t';
    if line.len() != 3
        || line[2] != "http/1.1"
        || fields.iter().any(|(n, v)| n.contains([' ', '\t']) || v.contains(odd))
    {
        return Err(Unsound);
    }
    let values = |name: &str| fields.iter().filter(|(n, _)| *n == name).map(|(_, v)| v.trim()).collect::<Vec<_>>();
    if values("host").len() != 1 {
        return Err(Unsound);
    }
    match (values("content-length").as_slice(), values("transfer-encoding").as_slice()) {
        ([], []) => Ok(Some(head)),
        ([length], []) => {
            let end = head + length.parse::<usize>().map_err(|_| Unsound)?;
            Ok(Some(end).filter(|end| *end <= bytes.len()))
        }
        ([], ["chunked"]) => Ok(chunks(&bytes[head..])?.map(|length| head + length)),
        _ => Err(Unsound),
    }
}

fn chunks(bytes: &[u8]) -> Result<Option<usize>, Unsound> {
    let mut at = 0;
    loop {
        let Some(line) = find(&bytes[at.min(bytes.len())..], b"\r\n") else { return Ok(None) };
        let size = std::str::from_utf8(&bytes[at..at + line]).map_err(|_| Unsound)?;
        let size = usize::from_str_radix(size, 16).map_err(|_| Unsound)?;
        at += line + 2;
        if size == 0 {
            return Ok(find(&bytes[at - 2..], b"\r\n\r\n").map(|end| at - 2 + end + 4));
        }
        at += size + 2;
    }
}

fn find(bytes: &[u8], what: &[u8]) -> Option<usize> {
    bytes.windows(what.len()).position(|w| w == what)
}
