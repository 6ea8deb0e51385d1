//! Fields that only the proxy may say: what a client calls by their name, or by one that servers take for it, goes.

use http::{HeaderMap, HeaderName};

/// Removes `name` and what differs from it by `_` for `-` alone: CGI, WSGI and PHP read both as one.
pub(crate) fn remove(headers: &mut HeaderMap, name: &HeaderName) {
    headers.remove(name);
    while let Some(alike) = headers.keys().find(|other| is_alike(other.as_str(), name.as_str())).cloned() {
        headers.remove(alike);
    }
}

fn is_alike(other: &str, name: &str) -> bool {
    let same = |(a, b): (u8, u8)| a == b || (matches!(a, b'_' | b'-') && matches!(b, b'_' | b'-'));
    other.len() == name.len() && other.bytes().zip(name.bytes()).all(same)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_servers_confuse_go_too() {
        let mut headers = HeaderMap::new();
        for name in ["x-user-id", "x_user-id", "x_user_id", "x-user-ids", "x_user", "xuser-id"] {
            headers.append(HeaderName::from_static(name), "root".parse().unwrap());
        }
        remove(&mut headers, &HeaderName::from_static("x-user-id"));
        let mut left: Vec<&str> = headers.keys().map(HeaderName::as_str).collect();
        left.sort_unstable();
        assert_eq!(left, ["x-user-ids", "x_user", "xuser-id"]);
    }
}
