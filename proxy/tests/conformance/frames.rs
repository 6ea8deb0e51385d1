//! HTTP/2 frames written by hand.

use weir_proxy::Proxy;

use crate::peer::Peer;

pub(crate) const DATA: u8 = 0;
pub(crate) const HEADERS: u8 = 1;
pub(crate) const PRIORITY: u8 = 2;
pub(crate) const RST_STREAM: u8 = 3;
pub(crate) const SETTINGS: u8 = 4;
pub(crate) const PING: u8 = 6;
pub(crate) const GOAWAY: u8 = 7;
pub(crate) const WINDOW_UPDATE: u8 = 8;
pub(crate) const CONTINUATION: u8 = 9;

pub(crate) const END_STREAM: u8 = 1;
pub(crate) const END_HEADERS: u8 = 4;

/// `GET http://a/` without indexing: `:method GET`, `:scheme http`, `:path /`, `:authority a`.
pub(crate) const GET: &[u8] = &[0x82, 0x86, 0x84, 0x01, 0x01, b'a'];

/// The same for `POST`.
pub(crate) const POST: &[u8] = &[0x83, 0x86, 0x84, 0x01, 0x01, b'a'];

pub(crate) fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut frame = (payload.len() as u32).to_be_bytes()[1..].to_vec();
    frame.extend([kind, flags]);
    frame.extend(stream.to_be_bytes());
    frame.extend(payload);
    frame
}

/// A connection that has said its preface and settings.
pub(crate) async fn open(proxy: &Proxy) -> Peer {
    let mut peer = Peer::say(proxy, "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await;
    peer.send(frame(SETTINGS, 0, 0, &[])).await;
    peer
}

/// The kinds of the frames in what was received, each with its payload.
pub(crate) fn parse(mut bytes: &[u8]) -> Vec<(u8, Vec<u8>)> {
    let mut frames = Vec::new();
    while let [a, b, c, kind, _, _, _, _, _, rest @ ..] = bytes {
        let length = u32::from_be_bytes([0, *a, *b, *c]) as usize;
        frames.push((*kind, rest[..length.min(rest.len())].to_vec()));
        bytes = rest.get(length..).unwrap_or_default();
    }
    frames
}
