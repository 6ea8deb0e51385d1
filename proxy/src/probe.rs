//! [`Probe`]: one question to the admin address of a running proxy, for whoever starts and stops it.
//!
//! The admin address is on loopback, where a kubelet cannot ask, and an image of the proxy has no other program that could.
//! It reads no `proxy.yaml`: one that was changed for the worse is refused by the proxy that runs, and must not make it look ill.

use std::{
    io::{BufRead, BufReader, Write},
    net::{SocketAddr, TcpStream},
    str::FromStr,
    time::Duration,
};

/// 1 s for each step, as long as a kubelet gives a probe unless it is told otherwise.
const PATIENCE: Duration = Duration::from_secs(1);

/// An admin address and what is asked there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Probe {
    address: SocketAddr,
    path: String,
}

impl FromStr for Probe {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let expected = || format!("{text:?}: expected an address and a path, such as 127.0.0.1:15021/healthz/ready");
        let (address, path) = text.split_once('/').ok_or_else(expected)?;
        let address = address.parse().map_err(|_| expected())?;
        let plain = path.bytes().all(|byte| byte.is_ascii_graphic());
        plain.then(|| Self { address, path: format!("/{path}") }).ok_or_else(expected)
    }
}

impl Probe {
    /// Whether it is answered with 200; blocks for some seconds at most.
    ///
    /// # Errors
    /// What was answered instead, or why nothing was.
    pub fn ask(&self) -> Result<(), String> {
        let line = self.status_line().map_err(|error| format!("{}{}: {error}", self.address, self.path))?;
        let well = line.split(' ').nth(1) == Some("200");
        well.then_some(()).ok_or_else(|| format!("{}{}: {}", self.address, self.path, line.trim_end()))
    }

    fn status_line(&self) -> std::io::Result<String> {
        let mut stream = TcpStream::connect_timeout(&self.address, PATIENCE)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        let Self { address, path } = self;
        stream.write_all(format!("GET {path} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n\r\n").as_bytes())?;
        let mut line = String::new();
        BufReader::new(stream).read_line(&mut line)?;
        Ok(line)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Config, Proxy};

    #[test]
    fn a_probe_is_an_address_and_a_path() {
        let probe: Probe = "[::1]:15021/healthz/live".parse().unwrap();
        assert_eq!((probe.address.port(), probe.path.as_str()), (15_021, "/healthz/live"));
        for wrong in
            ["127.0.0.1:15021", "localhost:1/healthz", "127.0.0.1/healthz", "127.0.0.1:1/a b", "127.0.0.1:1/\r\n"]
        {
            assert!(wrong.parse::<Probe>().is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn it_tells_who_is_well() {
        let text = "service: a\nthreads: 1\nadmin: 127.0.0.1:0\nadmin_token: secret\n\
            listeners: [{ address: '127.0.0.1:0', direction: inbound, routes: [{ upstream: a }] }]\n\
            upstreams: [{ name: a, endpoints: ['127.0.0.1:1'] }]";
        let proxy = Proxy::start(Config::from_yaml(text).unwrap()).unwrap();
        let address = proxy.admin_address().unwrap();
        let ask = |path: &str| format!("{address}{path}").parse::<Probe>().unwrap().ask();
        assert_eq!((ask("/healthz/live"), ask("/healthz/ready")), (Ok(()), Ok(())));
        assert!(ask("/config").unwrap_err().contains("401"));
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(proxy.drain());
        assert!(ask("/healthz/ready").is_err());
    }
}
