//! Endpoints in a file: read again when its text is another. Looking at the text finds every way a file
//! can change: written, renamed over, or behind a link that moves, as in a mounted ConfigMap.

use std::path::{Path, PathBuf};

use tokio::time::{Duration, sleep};

use crate::{
    config::Endpoint,
    discovery::{Registrar, Unavailable},
};

/// 1 s: soon for people, and nothing for the disk.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// 4 MiB, some fifty thousand endpoints: what is longer is not such a file.
const MAX_BYTES: u64 = 4 << 20;

/// What was read last, and why it cannot be used, if so.
type Last = Option<(String, Option<String>)>;

pub(super) async fn watch(path: PathBuf, mut registrar: Registrar) {
    let mut last = None;
    loop {
        match changed(&path, &mut last).await {
            Ok(Some(endpoints)) => registrar.found(endpoints),
            Ok(None) => {}
            Err(error) => {
                let _ = registrar.failed(&error);
            }
        }
        sleep(LOOK_EVERY).await;
    }
}

/// The endpoints, if the text is another than `last`, or is there again.
async fn changed(path: &Path, last: &mut Last) -> Result<Option<Vec<Endpoint>>, Unavailable> {
    let unavailable = |why: &dyn std::fmt::Display| Unavailable(format!("{}: {why}", path.display()));
    let text = match read(path).await {
        Ok(text) => text,
        Err(error) => {
            *last = None;
            return Err(unavailable(&error));
        }
    };
    // a text that cannot be used is not read again until it changes
    let known = last.as_ref().filter(|(known, _)| *known == text).map(|(_, why)| why.clone());
    match known {
        Some(None) => Ok(None),
        Some(Some(why)) => Err(unavailable(&why)),
        None => {
            let parsed = parse(&text);
            *last = Some((text, parsed.as_ref().err().cloned()));
            parsed.map(Some).map_err(|why| unavailable(&why))
        }
    }
}

async fn read(path: &Path) -> Result<String, String> {
    let size = tokio::fs::metadata(path).await.map_err(|error| error.to_string())?.len();
    if size > MAX_BYTES {
        return Err(format!("{size} bytes are more than {MAX_BYTES}"));
    }
    tokio::fs::read_to_string(path).await.map_err(|error| error.to_string())
}

fn parse(text: &str) -> Result<Vec<Endpoint>, String> {
    let endpoints: Option<Vec<Endpoint>> = serde_saphyr::from_str(text).map_err(|error| error.to_string())?;
    // it is being written, or was cut off
    let endpoints = endpoints.ok_or("it is empty: a list of none is `[]`")?;
    for (n, endpoint) in endpoints.iter().enumerate() {
        endpoint.validate().map_err(|error| format!("[{n}] {error}"))?;
    }
    Ok(endpoints)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn yaml_and_json_are_read_and_what_is_wrong_is_named() {
        let labelled = "- 10.0.0.1:80\n- { address: '10.0.0.2:80', weight: 3, labels: { version: v2 } }";
        let endpoints = parse(labelled).unwrap();
        assert_eq!((endpoints[0].weight, endpoints[1].weight, endpoints[1].labels["version"].as_str()), (1, 3, "v2"));
        assert_eq!(parse(r#"["10.0.0.1:80"]"#).unwrap(), ["10.0.0.1:80".into()]);
        assert_eq!(parse("[]").unwrap(), []);
        for nothing in ["", "\n", "# soon", "null"] {
            assert!(parse(nothing).is_err(), "{nothing:?} is no list");
        }
        assert!(parse("- nowhere").unwrap_err().starts_with("[0] is \"nowhere\""));
        assert!(parse("- { adress: 'a:1' }").unwrap_err().contains("adress"));
    }
}
