//! What a build was asked for, in the words of docker's client: the arguments that BuildKit's frontend gets.
//! Pure, but for [`unique`].

use std::collections::BTreeMap;

use rcrun_builder::attest::address::redacted;
use rcrun_builder::graph::Wanted;

use crate::verbs::build::Build;

/// How arguments of the build begin.
const ARGUMENT: &str = "build-arg:";

/// By the frontend's names. What is of this machine is left out: where the cache is, control groups, proxies.
pub(super) fn arguments(
    flags: &Build,
    wanted: &Wanted,
    contexts: &BTreeMap<String, String>,
) -> BTreeMap<String, String> {
    let mut all = BTreeMap::new();
    for (name, value) in wanted.arguments.iter().filter(|(name, _)| !is_proxy(name)) {
        all.insert(format!("{ARGUMENT}{name}"), redacted(value));
    }
    for (name, value) in &wanted.labels {
        all.insert(format!("label:{name}"), value.clone());
    }
    for (name, value) in contexts {
        all.insert(format!("context:{name}"), value.clone());
    }
    let no_cache = match (flags.no_cache, flags.no_cache_filter.as_slice()) {
        (true, _) => Some(String::new()),
        (false, []) => None,
        (false, stages) => Some(stages.join(",")),
    };
    let network = flags.network.clone().filter(|mode| mode != "default");
    let listed = |list: &[String]| (!list.is_empty()).then(|| list.join(","));
    let hosts: Vec<String> = flags
        .add_host
        .iter()
        .map(|host| host.replacen(':', "=", usize::from(!host.contains('='))))
        .collect();
    let size = flags.shm_size.as_ref().map(|text| {
        let bytes = crate::units::bytes(text).map(|bytes| bytes.to_string());
        bytes.unwrap_or_else(|_| text.clone())
    });
    for (name, value) in [
        ("target", flags.target.clone()),
        ("no-cache", no_cache),
        ("force-network-mode", network),
        ("add-hosts", listed(&hosts)),
        ("shm-size", size),
        ("ulimit", listed(&flags.ulimit)),
    ] {
        if let Some(value) = value {
            all.insert(name.to_owned(), value);
        }
    }
    all
}

/// Addresses of proxies, with passwords perhaps, are of the place and not of the build.
fn is_proxy(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    matches!(
        name.as_str(),
        "http_proxy" | "https_proxy" | "ftp_proxy" | "no_proxy" | "all_proxy"
    )
}

/// A name for a build that no other has: 25 digits and letters.
pub(super) fn unique() -> String {
    const DIGITS: &[u8; 32] = b"0123456789abcdefghijklmnopqrstuv";
    let mut bytes = [0; 25];
    // Without the kernel's help it is one that others may have, and nothing else is wrong with it.
    let _ = rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty());
    bytes
        .iter()
        .map(|byte| char::from(DIGITS[usize::from(byte % 32)]))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_docker_asks() {
        let of = |words: &[&str], arguments: &[(&str, &str)], labels: &[(&str, &str)]| {
            let map = |pairs: &[(&str, &str)]| -> BTreeMap<String, String> {
                let owned = |(name, value): &(&str, &str)| (name.to_string(), value.to_string());
                pairs.iter().map(owned).collect()
            };
            let all = [&["build"], words, &["."]].concat();
            let flags = <Build as clap::Parser>::try_parse_from(all).unwrap();
            let wanted = Wanted {
                arguments: map(arguments),
                labels: map(labels),
                ..Wanted::default()
            };
            let contexts = map(&[("x", "local:x")]);
            let all = super::arguments(&flags, &wanted, &contexts);
            let line = |(name, value)| format!("{name}={value}");
            all.into_iter().map(line).collect::<Vec<_>>()
        };
        let url = "https://u:p@a.b/?c";
        for (words, arguments, labels, expected) in [
            (&[][..], &[][..], &[][..], &[][..]),
            (
                &["--target=t", "--no-cache", "--network=none"],
                &[
                    ("A", "1"),
                    ("HTTP_PROXY", url),
                    ("no_proxy", "x"),
                    ("U", url),
                ],
                &[("l", "m")],
                &[
                    "build-arg:A=1",
                    "build-arg:U=https://xxxxx:xxxxx@a.b/?c",
                    "force-network-mode=none",
                    "label:l=m",
                    "no-cache=",
                    "target=t",
                ],
            ),
            (
                &[
                    "--no-cache-filter=a,b",
                    "--network=default",
                    "--add-host=a:1.2.3.4",
                    "--add-host=b=::1",
                    "--shm-size=1m",
                    "--ulimit=nofile=1:2",
                ],
                &[],
                &[],
                &[
                    "add-hosts=a=1.2.3.4,b=::1",
                    "no-cache=a,b",
                    "shm-size=1048576",
                    "ulimit=nofile=1:2",
                ],
            ),
        ] {
            let mut expected: Vec<&str> = expected.to_vec();
            expected.push("context:x=local:x");
            expected.sort_unstable();
            assert_eq!(of(words, arguments, labels), expected);
        }
        let (one, other) = (unique(), unique());
        assert!(one.len() == 25 && one != other, "{one} {other}");
    }
}
