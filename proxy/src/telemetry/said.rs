//! [`Said`]: what a client said of its request, as far as records keep it: copied once, cut to bounds, in one piece.

use http::{Request, Version, header::USER_AGENT};

use crate::{
    authority::authority_of,
    traffic::{caller_of, expects_grpc},
};

/// 1 KiB of a path: longer ones tell nobody more, and records wait by the ten thousand.
pub(crate) const MAX_PATH: usize = 1_024;

/// 128 B of who calls: a service and an instance.
pub(crate) const MAX_CALLER: usize = 128;

/// 262 B of a host: a name in DNS has 253 at most, and a port.
const MAX_HOST: usize = 262;

/// 256 B of a user agent: browsers say about half of that.
const MAX_AGENT: usize = 256;

/// How many texts there are.
const TEXTS: usize = 5;

/// Its texts lie one behind the other, so that a record costs one allocation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Said {
    text: Box<str>,
    /// Where each but the last ends.
    ends: [u16; TEXTS - 1],
    pub(crate) version: Version,
    /// Whether the call is gRPC's.
    pub(crate) grpc: bool,
}

impl Said {
    /// Copies what is kept of a request that came from `address`; who called it, and by what program, is said of those only
    /// that come in from others.
    pub(crate) fn of<B>(request: &Request<B>, address: &str, inbound: bool) -> Self {
        let path = request.uri().path_and_query().map_or("", |path| path.path());
        let host = authority_of(request).unwrap_or_default();
        let agent = || request.headers().get(USER_AGENT)?.to_str().ok();
        let (agent, caller, address) = match inbound {
            true => (agent().unwrap_or_default(), caller_of(request).unwrap_or_default(), address),
            false => Default::default(),
        };
        Self::new([path, host, agent, caller, address], request.version(), expects_grpc(request.headers()))
    }

    /// Of path, host, agent, caller and address; what is empty was not said.
    pub(crate) fn new(texts: [&str; TEXTS], version: Version, grpc: bool) -> Self {
        let [path, host, agent, caller, address] = texts;
        let cut = [cut(path, MAX_PATH), cut(host, MAX_HOST), cut(agent, MAX_AGENT), cut(caller, MAX_CALLER), address];
        let (mut ends, mut end) = ([0; TEXTS - 1], 0);
        for (place, text) in ends.iter_mut().zip(cut) {
            end += text.len() as u16;
            *place = end;
        }
        Self { text: cut.concat().into(), ends, version, grpc }
    }

    /// Without its query; nothing where only a host was asked for.
    pub(crate) fn path(&self) -> Option<&str> {
        self.nth(0)
    }

    /// As asked for, with its port.
    pub(crate) fn host(&self) -> Option<&str> {
        self.nth(1)
    }

    pub(crate) fn agent(&self) -> Option<&str> {
        self.nth(2)
    }

    /// `service/instance` of the caller, as its sidecar said.
    pub(crate) fn caller(&self) -> Option<&str> {
        self.nth(3)
    }

    /// Where the connection comes from.
    pub(crate) fn address(&self) -> Option<&str> {
        self.nth(4)
    }

    fn nth(&self, n: usize) -> Option<&str> {
        let start = if n == 0 { 0 } else { usize::from(self.ends[n - 1]) };
        let end = self.ends.get(n).map_or(self.text.len(), |end| usize::from(*end));
        Some(&self.text[start..end]).filter(|text| !text.is_empty())
    }
}

impl Default for Said {
    fn default() -> Self {
        Self { text: Box::default(), ends: [0; TEXTS - 1], version: Version::HTTP_11, grpc: false }
    }
}

fn cut(text: &str, max_bytes: usize) -> &str {
    &text[..text.floor_char_boundary(max_bytes)]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_told_apart_and_cut_between_characters() {
        let long = format!("/{}", "ä".repeat(MAX_PATH));
        let said = Said::new([&long, "shop:80", "", "c", "::1"], Version::HTTP_2, true);
        assert_eq!(said.path().map(str::len), Some(MAX_PATH - 1));
        assert_eq!(
            (said.host(), said.agent(), said.caller(), said.address()),
            (Some("shop:80"), None, Some("c"), Some("::1"))
        );
        let nothing = Said::default();
        assert_eq!((nothing.path(), nothing.host(), nothing.address()), (None, None, None));
    }
}
