//! The files that deploy a sidecar: they parse, what they say to the proxy it understands, and what they ask of a
//! cluster is what a careful one asks for.

#![allow(clippy::unwrap_used, reason = "a test that meets what it did not expect is to stop")]

use std::{collections::BTreeMap, path::Path, process::Command};

use serde_json::{Value, json};
use weir_proxy::{Config, Probe};

fn read(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy").join(name);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// By kind and name.
fn objects() -> BTreeMap<(String, String), Value> {
    let documents: Vec<Value> = serde_saphyr::from_multiple(&read("kubernetes.yaml")).unwrap();
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let key = |value: &Value| (text(&value["kind"]), text(&value["metadata"]["name"]));
    let count = documents.len();
    let objects: BTreeMap<_, _> = documents.into_iter().map(|value| (key(&value), value)).collect();
    assert_eq!(objects.len(), count, "two objects of one kind and name");
    objects
}

fn object(kind: &str, name: &str) -> Value {
    objects().remove(&(kind.to_owned(), name.to_owned())).unwrap_or_else(|| panic!("no {kind} {name}"))
}

/// The specification of the pods of a workload.
fn pod(kind: &str, name: &str) -> Value {
    object(kind, name)["spec"]["template"]["spec"].clone()
}

fn containers(pod: &Value) -> Vec<Value> {
    let of = |key: &str| pod[key].as_array().cloned().unwrap_or_default();
    [of("initContainers"), of("containers")].concat()
}

fn sidecar() -> Value {
    pod("Deployment", "tagger")["initContainers"][0].clone()
}

fn words(value: &Value) -> Vec<String> {
    value.as_array().unwrap().iter().map(|word| word.as_str().unwrap().to_owned()).collect()
}

#[test]
fn the_sidecar_s_file_and_flags_are_ones_it_knows() {
    let config = object("ConfigMap", "tagger-proxy")["data"]["proxy.yaml"].as_str().unwrap().to_owned();
    let config = Config::from_yaml(&config).unwrap();
    let listens: Vec<u16> = config.listeners.iter().map(|listener| listener.address.port()).collect();
    assert!(listens.contains(&8080), "the port that the pod and its service name: {listens:?}");
    let help = Command::new(env!("CARGO_BIN_EXE_weir-proxy")).arg("--help").output().unwrap();
    let help = String::from_utf8(help.stdout).unwrap();
    let sidecar = sidecar();
    let mut said = words(&sidecar["args"]);
    for probe in ["startupProbe", "readinessProbe", "livenessProbe"] {
        let command = words(&sidecar[probe]["exec"]["command"]);
        assert_eq!((command[0].as_str(), command[1].as_str()), ("weir-proxy", "--probe"), "{probe}");
        command[2].parse::<Probe>().unwrap();
        assert!(command[2].starts_with(&config.admin.unwrap().to_string()), "{probe} asks elsewhere: {command:?}");
        said.extend(command);
    }
    for flag in said.iter().filter(|word| word.starts_with("--")) {
        assert!(help.contains(flag.as_str()), "{flag} is not in {help}");
    }
    let state = config.policy.unwrap().state_dir.unwrap();
    let mounts = sidecar["volumeMounts"].as_array().unwrap();
    let mounted = |path: &str| mounts.iter().find(|mount| mount["mountPath"] == path);
    let writable = mounted(state.to_str().unwrap()).is_some_and(|mount| mount["readOnly"] != true);
    assert!(writable, "the root is read-only, and {} is no volume", state.display());
    let folder = Path::new(&said[1]).parent().unwrap().to_str().unwrap();
    let mount = mounted(folder).unwrap_or_else(|| panic!("{folder} is no volume"));
    assert_eq!(mount["subPath"], Value::Null, "what is mounted by subPath never changes");
}

#[test]
fn the_sidecar_is_there_before_the_workload_and_after_it() {
    let pod = pod("Deployment", "tagger");
    assert_eq!(sidecar()["restartPolicy"], "Always", "else it is no sidecar and nothing else begins");
    assert!(pod["containers"][0]["lifecycle"]["preStop"].is_object(), "the workload waits until nobody is sent to it");
    let grace_s = pod["terminationGracePeriodSeconds"].as_u64().unwrap();
    let asleep_s = pod["containers"][0]["lifecycle"]["preStop"]["sleep"]["seconds"].as_u64().unwrap();
    let config = object("ConfigMap", "tagger-proxy")["data"]["proxy.yaml"].as_str().unwrap().to_owned();
    let config = Config::from_yaml(&config).unwrap();
    let drain_ms = config.timeouts.lame_duck_ms.unwrap_or(5_000) + config.timeouts.drain_ms + config.telemetry.flush_ms;
    assert!(grace_s * 1_000 > asleep_s * 1_000 + drain_ms, "{grace_s} s are not enough");
}

#[test]
fn nothing_runs_as_root_or_writes_where_it_should_not() {
    for (kind, name) in [("StatefulSet", "weir"), ("Deployment", "tagger")] {
        let pod = pod(kind, name);
        let security = &pod["securityContext"];
        assert_eq!(
            (&security["runAsNonRoot"], &security["seccompProfile"]["type"]),
            (&json!(true), &json!("RuntimeDefault"))
        );
        assert_eq!(pod["automountServiceAccountToken"], false, "{name}");
        let volumes: Vec<&Value> = pod["volumes"].as_array().unwrap().iter().map(|volume| &volume["name"]).collect();
        for container in containers(&pod) {
            let own = &container["securityContext"];
            let expected = json!({ "allowPrivilegeEscalation": false, "readOnlyRootFilesystem": true, "capabilities": { "drop": ["ALL"] } });
            assert_eq!(*own, expected, "{}", container["name"]);
            for mount in container["volumeMounts"].as_array().into_iter().flatten() {
                let known = volumes.contains(&&mount["name"]) || mount["name"] == "data";
                assert!(known, "{} of {}", mount["name"], container["name"]);
            }
            let ours = container["image"].as_str().unwrap().starts_with("weir");
            let bounded = container["resources"]["limits"]["memory"].is_string()
                && container["resources"]["requests"]["cpu"].is_string();
            let probes = ["startupProbe", "readinessProbe", "livenessProbe"];
            let probed = probes.iter().all(|probe| container[*probe].is_object());
            assert!(!ours || (bounded && probed), "{}", container["name"]);
        }
    }
}

#[test]
fn the_images_hold_what_is_called() {
    let text = read("Containerfile");
    for line in ["USER 65532:65532", "ENTRYPOINT [\"weir-proxy\"]", "CMD [\"--config\", \"/etc/weir/proxy.yaml\"]"] {
        assert!(text.contains(line), "{line}");
    }
    assert!(text.contains("/usr/local/bin/weir-proxy"), "an exec probe finds it on the path");
}
