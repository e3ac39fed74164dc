//! What a container runs: program, arguments, environment, directory, stop signal. Of the image and the request.

use std::collections::HashMap;
use std::path::Path;

use rcrun_image::document::Config;
use rcrun_runtime::template::{PATH, clean, signal};

use crate::proto::v1;
use crate::{Context, Error, Result};

/// Most variables. What all of them may take the kernel says, when the program is executed.
const MOST: usize = 100_000;
/// What stops containers, unless somebody says otherwise.
const SIGTERM: i32 = 15;

/// Program and arguments: `command` takes the place of the image's entrypoint and arguments, `args` of the latter.
pub(super) fn arguments(config: &v1::ContainerConfig, image: &Config) -> Result<Vec<String>> {
    let (mut all, args) = match (&config.command[..], &config.args[..]) {
        ([], []) => (entrypoint(image), &image.cmd[..]),
        ([], args) => (entrypoint(image), args),
        (command, args) => (command.to_vec(), args),
    };
    all.extend_from_slice(args);
    if all.iter().any(|word| word.contains('\0')) {
        return Err(Error::invalid(
            "a word of the command holds a null character",
        ));
    }
    match all.first().map(String::as_str) {
        None => Err(Error::invalid(
            "no command: neither the request nor the image has one",
        )),
        Some("") => Err(Error::invalid("the command's name is empty")),
        Some(_) => Ok(all),
    }
}

/// A single empty word is how Dockerfiles say that there is none.
fn entrypoint(image: &Config) -> Vec<String> {
    match image.entrypoint.as_slice() {
        [one] if one.is_empty() => Vec::new(),
        words => words.to_vec(),
    }
}

/// Variables; later ones take the place of earlier ones: defaults, the image's, the request's, those of
/// CDI devices.
pub(super) fn environment(
    config: &v1::ContainerConfig,
    image: &Config,
    hostname: &str,
    of_devices: &[String],
) -> Result<Vec<String>> {
    let mut all = Environment::default();
    all.put(PATH.to_owned());
    if config.tty {
        all.put("TERM=xterm".to_owned());
    }
    all.put(format!("HOSTNAME={hostname}"));
    // An entry without a value would take that of whoever looks (CVE-2026-57231).
    let has_value = |text: &&String| text.find('=').is_some_and(|at| at > 0);
    for text in image.env.iter().filter(has_value) {
        all.put(text.clone());
    }
    if config.envs.len() > MOST {
        return Err(Error::invalid(format!("more than {MOST} envs")));
    }
    for env in &config.envs {
        if env.key.is_empty() || env.key.contains('=') {
            let text = format!("envs: {:?} is no name of a variable", env.key);
            return Err(Error::invalid(text));
        }
        let value = std::str::from_utf8(&env.value);
        let value = value
            .map_err(|_| Error::invalid(format!("envs: the value of {} is not UTF-8", env.key)))?;
        all.put(format!("{}={value}", env.key));
    }
    for text in of_devices.iter().filter(has_value) {
        all.put(text.clone());
    }
    match all.list.iter().find(|text| text.contains('\0')) {
        None => Ok(all.list),
        Some(text) => {
            let name = text.split('=').next().unwrap_or_default();
            Err(Error::invalid(format!(
                "variable {name:?} holds a null character"
            )))
        }
    }
}

/// Variables in order, found by name.
#[derive(Default)]
struct Environment {
    list: Vec<String>,
    places: HashMap<String, usize>,
}

impl Environment {
    fn put(&mut self, text: String) {
        let name = text.split('=').next().unwrap_or_default().to_owned();
        match self.places.get(&name) {
            Some(place) => self.list[*place] = text,
            None => {
                self.places.insert(name, self.list.len());
                self.list.push(text);
            }
        }
    }
}

/// Where the program starts. The runtime refuses directories that are not within the container (CVE-2024-21626).
pub(super) fn directory(config: &v1::ContainerConfig, image: &Config) -> Result<String> {
    let text = match config.working_dir.as_str() {
        "" => clean(&Path::new("/").join(&image.working_dir)),
        text if text.starts_with('/') => clean(Path::new(text)),
        text => {
            return Err(Error::invalid(format!(
                "working_dir {text:?} is no absolute path"
            )));
        }
    };
    let text = text.to_string_lossy().into_owned();
    match text.contains('\0') {
        true => Err(Error::invalid(
            "the working directory holds a null character",
        )),
        false => Ok(text),
    }
}

/// The signal that stops it: the request's, else the image's, else SIGTERM.
pub(super) fn stop_signal(config: &v1::ContainerConfig, image: &Config) -> Result<i32> {
    let of_image = image.stop_signal.as_deref().filter(|text| !text.is_empty());
    let asked = v1::Signal::try_from(config.stop_signal)
        .map_err(|_| Error::invalid(format!("stop_signal {} is not known", config.stop_signal)))?;
    let number = match (asked, of_image) {
        (v1::Signal::RuntimeDefault, None) => return Ok(SIGTERM),
        (v1::Signal::RuntimeDefault, Some(text)) => {
            signal::parse(text).context(|| "the image's StopSignal")?
        }
        (asked, _) => number(asked)?,
    };
    match number {
        0 => Err(Error::invalid("the image's StopSignal 0 stops nothing")),
        number => Ok(number),
    }
}

/// `SIGNAL_SIGRTMINPLUS1` is RTMIN+1.
fn number(asked: v1::Signal) -> Result<i32> {
    let name = asked.as_str_name().trim_start_matches("SIGNAL_");
    signal::parse(&name.replace("PLUS", "+").replace("MINUS", "-"))
}

/// The interface's name of a signal; the default for one that it has no name for.
pub(super) fn signal_of(wanted: i32) -> v1::Signal {
    // Where two have one number the usual name comes first.
    let first = [v1::Signal::Sigabrt, v1::Signal::Sigchld, v1::Signal::Sigio];
    let all = (1..=255).map_while(|value| v1::Signal::try_from(value).ok());
    first
        .into_iter()
        .chain(all)
        .find(|signal| number(*signal).is_ok_and(|number| number == wanted))
        .unwrap_or(v1::Signal::RuntimeDefault)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> Vec<String> {
        text.split_whitespace().map(str::to_owned).collect()
    }

    fn image() -> Config {
        Config {
            entrypoint: words("/start"),
            cmd: words("serve --all"),
            ..Config::default()
        }
    }

    #[test]
    fn commands() {
        let reset = Config {
            entrypoint: vec![String::new()],
            ..image()
        };
        let bare = Config::default();
        for (command, args, image, expected) in [
            ("", "", &image(), Some("/start serve --all")),
            ("", "x y", &image(), Some("/start x y")),
            ("sh -c", "", &image(), Some("sh -c")),
            ("sh -c", "x", &image(), Some("sh -c x")),
            ("", "", &reset, Some("serve --all")),
            ("", "x", &bare, Some("x")),
            ("", "", &bare, None),
        ] {
            let config = v1::ContainerConfig {
                command: words(command),
                args: words(args),
                ..v1::ContainerConfig::default()
            };
            let found = arguments(&config, image).ok().map(|all| all.join(" "));
            assert_eq!(found.as_deref(), expected, "{command} {args}");
        }
        for word in ["", "a\0b"] {
            let config = v1::ContainerConfig {
                command: vec![word.to_owned()],
                ..v1::ContainerConfig::default()
            };
            arguments(&config, &image()).unwrap_err();
        }
    }

    fn variables(envs: &[(&str, &[u8])], of_image: &[&str], tty: bool) -> Result<String> {
        let config = v1::ContainerConfig {
            tty,
            envs: envs
                .iter()
                .map(|(key, value)| v1::KeyValue {
                    key: (*key).into(),
                    value: value.to_vec(),
                })
                .collect(),
            ..v1::ContainerConfig::default()
        };
        let image = Config {
            env: of_image.iter().map(ToString::to_string).collect(),
            ..Config::default()
        };
        let devices = ["GPU=1".to_owned()];
        environment(&config, &image, "pod", &devices).map(|all| all.join(" "))
    }

    #[test]
    fn variables_and_their_order() {
        for (envs, of_image, tty, expected) in [
            (
                &[][..],
                &[][..],
                false,
                format!("{PATH} HOSTNAME=pod GPU=1"),
            ),
            (
                &[],
                &["PATH=/bin", "A=1"],
                true,
                "PATH=/bin TERM=xterm HOSTNAME=pod A=1 GPU=1".into(),
            ),
            (
                &[
                    ("A", &b"a=b"[..]),
                    ("HOSTNAME", b"own"),
                    ("A", b"2"),
                    ("E", b""),
                ],
                &["PATH=/bin", "A=1", "GPU=all"],
                false,
                "PATH=/bin HOSTNAME=own A=2 GPU=1 E=".into(),
            ),
        ] {
            assert_eq!(variables(envs, of_image, tty).unwrap(), expected);
        }
        for envs in [
            ("", &b"1"[..]),
            ("A=B", b"1"),
            ("A", b"\xff"),
            ("A", b"\0"),
            ("A\0", b""),
        ] {
            variables(&[envs], &[], false).unwrap_err();
        }
        variables(&[], &["A=\0"], false).unwrap_err();
        variables(&vec![("A", &b""[..]); MOST + 1], &[], false).unwrap_err();
        variables(&vec![("A", &b""[..]); MOST], &[], false).unwrap();
    }

    /// CVE-2026-57231: a variable of an image without a value took the host's.
    #[test]
    fn cve_2026_57231_image_variables_without_values() {
        let found = variables(&[], &["PATH=/bin", "SECRET", "AWS*", "=x", ""], false).unwrap();
        assert_eq!(found, "PATH=/bin HOSTNAME=pod GPU=1");
    }

    #[test]
    fn directories() {
        for (asked, of_image, expected) in [
            ("", "", Some("/")),
            ("", "srv", Some("/srv")),
            ("", "/a/../srv/", Some("/srv")),
            ("/tmp", "/srv", Some("/tmp")),
            ("/../../x", "", Some("/x")),
            ("tmp", "", None),
            ("/a\0", "", None),
        ] {
            let config = v1::ContainerConfig {
                working_dir: asked.into(),
                ..v1::ContainerConfig::default()
            };
            let image = Config {
                working_dir: of_image.into(),
                ..Config::default()
            };
            assert_eq!(
                directory(&config, &image).ok().as_deref(),
                expected,
                "{asked} {of_image}"
            );
        }
    }

    #[test]
    fn stop_signals() {
        for (asked, of_image, expected) in [
            (0, None, Some(15)),
            (0, Some(""), Some(15)),
            (0, Some("SIGQUIT"), Some(3)),
            (0, Some("RTMIN+3"), Some(37)),
            (0, Some("0"), None),
            (0, Some("SIGSHINY"), None),
            (v1::Signal::Sigusr1 as i32, Some("SIGQUIT"), Some(10)),
            (v1::Signal::Sigrtminplus1 as i32, None, Some(35)),
            (v1::Signal::Sigrtmaxminus2 as i32, None, Some(62)),
            (999, None, None),
        ] {
            let config = v1::ContainerConfig {
                stop_signal: asked,
                ..v1::ContainerConfig::default()
            };
            let image = Config {
                stop_signal: of_image.map(str::to_owned),
                ..Config::default()
            };
            assert_eq!(
                stop_signal(&config, &image).ok(),
                expected,
                "{asked} {of_image:?}"
            );
        }
    }

    #[test]
    fn every_signal_of_the_interface_has_a_number() {
        let all = (1..=255).map_while(|value| v1::Signal::try_from(value).ok());
        let all: Vec<_> = all.collect();
        assert!(all.len() >= 60, "{}", all.len());
        for signal in all {
            let one = number(signal).unwrap_or_else(|e| panic!("{}: {e}", signal.as_str_name()));
            assert_eq!(number(signal_of(one)).unwrap(), one);
        }
        assert_eq!(signal_of(15), v1::Signal::Sigterm);
        assert_eq!(signal_of(6), v1::Signal::Sigabrt);
        assert_eq!(signal_of(99), v1::Signal::RuntimeDefault);
    }
}
