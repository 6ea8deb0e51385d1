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

/// The endpoints, if the text is another than `last`.
async fn changed(path: &Path, last: &mut Option<String>) -> Result<Option<Vec<Endpoint>>, Unavailable> {
    let unavailable = |why: &dyn std::fmt::Display| Unavailable(format!("{}: {why}", path.display()));
    let size = tokio::fs::metadata(path).await.map_err(|error| unavailable(&error))?.len();
    if size > MAX_BYTES {
        return Err(unavailable(&format!("{size} bytes are more than {MAX_BYTES}")));
    }
    let text = tokio::fs::read_to_string(path).await.map_err(|error| unavailable(&error))?;
    if last.as_ref() == Some(&text) {
        return Ok(None);
    }
    let parsed = parse(&text).map_err(|why| unavailable(&why));
    // a text that cannot be used is not looked at again until it changes
    *last = Some(text);
    parsed.map(Some)
}

fn parse(text: &str) -> Result<Vec<Endpoint>, String> {
    let endpoints: Vec<Endpoint> = serde_saphyr::from_str(text).map_err(|error| error.to_string())?;
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
        assert!(parse("- nowhere").unwrap_err().starts_with("[0] is \"nowhere\""));
        assert!(parse("- { adress: 'a:1' }").unwrap_err().contains("adress"));
    }
}
