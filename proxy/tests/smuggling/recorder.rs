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
        if let Some(length) = whole(&read) {
            assert_eq!(length, read.len(), "something came behind a request: {:?}", String::from_utf8_lossy(&read));
            recorded.lock().unwrap().requests += 1;
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n").await;
            return;
        }
    }
}

/// The length of the request that `bytes` begins with, if it is all there.
fn whole(bytes: &[u8]) -> Option<usize> {
    let head = find(bytes, b"\r\n\r\n")? + 4;
    let text = String::from_utf8_lossy(&bytes[..head]).to_lowercase();
    let value = |name: &str| text.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
    match (value("content-length:"), value("transfer-encoding:")) {
        (None, None) => Some(head),
        (Some(length), None) => Some(head + length.parse::<usize>().unwrap()).filter(|end| *end <= bytes.len()),
        (None, Some("chunked")) => chunks(&bytes[head..]).map(|length| head + length),
        both => panic!("a request that can be read in two ways: {both:?}"),
    }
}

fn chunks(bytes: &[u8]) -> Option<usize> {
    let mut at = 0;
    loop {
        let line = find(&bytes[at..], b"\r\n")?;
        let size = usize::from_str_radix(std::str::from_utf8(&bytes[at..at + line]).unwrap(), 16).unwrap();
        at += line + 2;
        if size == 0 {
            return find(&bytes[at - 2..], b"\r\n\r\n").map(|end| at - 2 + end + 4);
        }
        at += size + 2;
        if at > bytes.len() {
            return None;
        }
    }
}

fn find(bytes: &[u8], what: &[u8]) -> Option<usize> {
    bytes.windows(what.len()).position(|w| w == what)
}
