//! `--device`, `--gpus` and `--device-cgroup-rule`: what they may say.

use rcrun_runtime::error::{Error, Result};
use rcrun_runtime::template::cdi;
use rcrun_runtime::template::devices::{Device, is_access};
use serde_json::{Value, json};

/// What `--device` can be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Wanted {
    Path(Device),
    /// By the Container Device Interface: `vendor.com/class=name`.
    Cdi(String),
}

/// `HOST[:CONTAINER][:rwm]` or `VENDOR/CLASS=NAME`.
pub(crate) fn device(text: &str) -> Result<Wanted> {
    if cdi::is_name(text) {
        return Ok(Wanted::Cdi(text.to_owned()));
    }
    let wrong = || {
        Error::invalid(format!(
            "{text:?} is neither HOST[:CONTAINER][:rwm] nor VENDOR/CLASS=NAME"
        ))
    };
    let parts: Vec<&str> = text.split(':').collect();
    let (host, inner, access) = match parts[..] {
        [host] => (host, host, "rwm"),
        [host, access] if is_access(access) => (host, host, access),
        [host, inner] => (host, inner, "rwm"),
        [host, inner, access] if is_access(access) => (host, inner, access),
        _ => return Err(wrong()),
    };
    if !host.starts_with('/') {
        return Err(wrong());
    }
    Ok(Wanted::Path(Device {
        host: rcrun_runtime::template::clean(host.as_ref()),
        inner: super::words::inside(inner)?,
        access: access.to_owned(),
    }))
}

/// The devices that `--gpus` means.
pub(crate) fn gpus(text: &str) -> Result<Vec<String>> {
    let text = text.trim_matches('"');
    let names: Vec<String> = match text.split_once('=') {
        None if text == "all" || text == "-1" => vec!["all".into()],
        None => match text.parse::<u32>() {
            Ok(count) if (1..=64).contains(&count) => (0..count).map(|n| n.to_string()).collect(),
            Ok(_) => return Err(Error::invalid(format!("{text} is no number of GPUs"))),
            Err(_) => text.split(',').map(str::to_owned).collect(),
        },
        Some(("device", list)) => list.split(',').map(str::to_owned).collect(),
        Some(("count", "all")) => vec!["all".into()],
        Some(("count", count)) => return gpus(count),
        Some(_) => {
            return Err(Error::unsupported(format!(
                "{text:?}: use all, a number or device=NAME"
            )));
        }
    };
    let full = |name: String| format!("nvidia.com/gpu={name}");
    let names: Vec<String> = names.into_iter().map(full).collect();
    match names.iter().find(|name| !cdi::is_name(name)) {
        None => Ok(names),
        Some(name) => Err(Error::invalid(format!("{name:?} is no device"))),
    }
}

/// `TYPE MAJOR:MINOR ACCESS`, as devices.allow of cgroup v1 has it.
pub(crate) fn rule(text: &str) -> Result<Value> {
    let wrong = || Error::invalid(format!("{text:?} is not like 'c 10:229 rwm'"));
    let [kind, numbers, access] = text.split_whitespace().collect::<Vec<_>>()[..] else {
        return Err(wrong());
    };
    let (major, minor) = numbers.split_once(':').ok_or_else(wrong)?;
    let number = |text: &str| match text {
        "*" => Ok(-1),
        _ => text.parse::<u32>().map(i64::from).map_err(|_| wrong()),
    };
    if !["a", "b", "c"].contains(&kind) || !is_access(access) {
        return Err(wrong());
    }
    Ok(
        json!({"allow": true, "type": kind, "major": number(major)?, "minor": number(minor)?,
              "access": access}),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices() {
        for (text, expected) in [
            ("/dev/a", Some("/dev/a /dev/a rwm")),
            ("/dev/a:/dev/b", Some("/dev/a /dev/b rwm")),
            ("/dev/a:r", Some("/dev/a /dev/a r")),
            ("/dev/a:/dev/b:mw", Some("/dev/a /dev/b mw")),
            ("vendor.com/gpu=0", Some("cdi vendor.com/gpu=0")),
            ("/dev/a:/dev/b:x", None),
            ("/dev/a:rr", None),
            ("dev/a", None),
            ("/dev/a:b", None),
            ("/dev/a:", None),
            ("", None),
        ] {
            let found = device(text).ok().map(|wanted| match wanted {
                Wanted::Path(one) => format!("{} {} {}", one.host.display(), one.inner, one.access),
                Wanted::Cdi(name) => format!("cdi {name}"),
            });
            assert_eq!(found.as_deref(), expected, "{text}");
        }
    }

    #[test]
    fn rules() {
        assert_eq!(
            rule("c 10:* rw").unwrap(),
            json!({"allow": true, "type": "c", "major": 10, "minor": -1, "access": "rw"})
        );
        for text in ["", "c 10 rw", "x 1:1 r", "c 1:1 z", "c 1:1 r w", "c -1:1 r"] {
            rule(text).unwrap_err();
        }
    }

    #[test]
    fn names_of_gpus() {
        let shown = |text| gpus(text).ok().map(|all| all.join(" "));
        for (text, expected) in [
            ("all", Some("nvidia.com/gpu=all")),
            ("2", Some("nvidia.com/gpu=0 nvidia.com/gpu=1")),
            (
                "device=0,GPU-3",
                Some("nvidia.com/gpu=0 nvidia.com/gpu=GPU-3"),
            ),
            ("\"device=1\"", Some("nvidia.com/gpu=1")),
            ("0", None),
            ("capabilities=utility", None),
            ("", None),
            ("device=../x", None),
        ] {
            assert_eq!(shown(text).as_deref(), expected, "{text}");
        }
    }
}
