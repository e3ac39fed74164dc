//! `-v`, `--mount`, `--tmpfs` and the mounts that every container has.
//!
//! What is bound has to exist, for `-v` as for `--mount`: a directory that appears because a path was
//! misspelt helps nobody. Volumes are only named here; `containers::volumes` makes and fills them.

mod all;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use rcrun_runtime::error::{Error, Result};

use super::words::{self, inside, size};
use crate::containers::volumes;

pub(crate) use all::{Base, all};

/// A mount that was asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Mount {
    /// Absolute, in the container.
    pub(crate) destination: String,
    pub(crate) source: Source,
    /// As the configuration has them.
    pub(crate) options: Vec<String>,
    /// Was asked to be read-only with all that is mounted below it.
    pub(crate) read_only: bool,
}

/// What is mounted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Source {
    /// A file or directory of the host.
    Host(PathBuf),
    /// A volume.
    Volume(Volume),
    /// A file system in memory.
    Memory,
}

/// A volume that is wanted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Volume {
    /// None that nobody gave a name: it gets one when the container does.
    pub(crate) name: Option<String>,
    /// It is to get what the image has there.
    pub(crate) copy: bool,
    /// Of one that is made for this.
    pub(crate) labels: BTreeMap<String, String>,
}

/// The same, with a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct VolumeMount<'a> {
    pub(crate) name: &'a str,
    pub(crate) destination: &'a str,
    pub(crate) anonymous: bool,
    pub(crate) copy: bool,
    pub(crate) labels: &'a BTreeMap<String, String>,
}

/// Where volumes are, and how they are mounted.
#[derive(Debug, Clone, Default)]
pub(crate) struct VolumePlace {
    /// `STORE/volumes`.
    pub(crate) directory: PathBuf,
    /// Files have the ids that they have inside of the container, and the mount maps them.
    pub(crate) mapped: bool,
}

const PROPAGATION: [&str; 6] = [
    "private", "rprivate", "shared", "rshared", "slave", "rslave",
];

/// Words behind a `-v` that are options of the bind mount.
const BIND_WORDS: [&str; 8] = [
    "noexec",
    "exec",
    "nosuid",
    "suid",
    "nodev",
    "dev",
    "noatime",
    "nosymfollow",
];

/// `HOST:CONTAINER[:OPTIONS]`, `VOLUME:CONTAINER[:OPTIONS]`, or `CONTAINER`.
pub(crate) fn volume(text: &str, cwd: &Path) -> Result<Mount> {
    let parts: Vec<&str> = text.split(':').collect();
    let (host, inner, words) = match parts[..] {
        [inner] => (None, inner, ""),
        [host, inner] => (Some(host), inner, ""),
        [host, inner, words] => (Some(host), inner, words),
        _ => {
            return Err(Error::invalid(format!(
                "{text:?} is not SOURCE:CONTAINER[:OPTIONS]; for paths with a colon use --mount"
            )));
        }
    };
    let mut bind = match host {
        Some("") => {
            return Err(Error::invalid(format!("{text:?} names no source")));
        }
        Some(host) if host.starts_with(['/', '.']) => Bind::new(host, inner, cwd)?,
        Some(name) if !volumes::is_name(name) => {
            return Err(Error::invalid(format!(
                "{name:?} is neither an absolute path nor a name of a volume: write ./{name} for a file \
                 here"
            )));
        }
        name => Bind::of_volume(name, inner)?,
    };
    for word in words.split(',').filter(|word| !word.is_empty()) {
        bind.word(word)?;
    }
    Ok(bind.finish())
}

/// A volume without a name, for a directory that an image declares as one.
pub(crate) fn of_image(path: &str) -> Result<Mount> {
    let path = rcrun_runtime::template::clean(&Path::new("/").join(path));
    Ok(Bind::of_volume(None, &path.to_string_lossy())?.finish())
}

/// `type=bind,source=PATH,target=PATH,...`.
pub(crate) fn mount(text: &str, cwd: &Path) -> Result<Mount> {
    let fields = csv(text)?;
    let get = |names: &[&str]| {
        let named = |field: &&String| {
            let name = field
                .split_once('=')
                .map_or(field.as_str(), |(name, _)| name);
            names.contains(&name)
        };
        let found = fields.iter().rev().find(named)?;
        Some(found.split_once('=').map_or("", |(_, value)| value))
    };
    let target = get(&["target", "destination", "dst"]).unwrap_or_default();
    let source = get(&["source", "src"]);
    let kind = get(&["type"]).unwrap_or("volume");
    let rest = fields
        .iter()
        .map(|field| field.split_once('=').unwrap_or((field, "")));
    let rest = rest.filter(|(name, _)| {
        ![
            "type",
            "target",
            "destination",
            "dst",
            "source",
            "src",
            "consistency",
        ]
        .contains(name)
    });
    match kind {
        "bind" => {
            let source = source.filter(|source| !source.is_empty());
            let source = source.ok_or_else(|| Error::invalid(format!("{text:?} has no source")))?;
            let mut bind = Bind::new(source, target, cwd)?;
            for (name, value) in rest {
                bind.field(name, value)?;
            }
            Ok(bind.finish())
        }
        "tmpfs" if source.is_some() => Err(Error::invalid("a tmpfs has no source")),
        "tmpfs" => memory(target, rest),
        "volume" => {
            let name = source.filter(|name| !name.is_empty());
            name.map_or(Ok(()), volumes::check_name)?;
            let mut bind = Bind::of_volume(name, target)?;
            for (name, value) in rest {
                bind.volume_field(name, value)?;
            }
            Ok(bind.finish())
        }
        other => Err(Error::unsupported(format!(
            "mounts of type {other:?} are not supported: use bind, volume or tmpfs"
        ))),
    }
}

/// `CONTAINER[:OPTIONS]`.
pub(crate) fn tmpfs(text: &str) -> Result<Mount> {
    let (target, words) = text.split_once(':').unwrap_or((text, ""));
    let mut options: Vec<String> = ["nosuid", "nodev", "noexec"].map(str::to_owned).into();
    for word in words.split(',').filter(|word| !word.is_empty()) {
        options.push(memory_option(word)?);
    }
    Ok(Mount {
        destination: inside(target)?,
        source: Source::Memory,
        options,
        read_only: false,
    })
}

fn memory_option(word: &str) -> Result<String> {
    let flags = [
        "ro",
        "rw",
        "suid",
        "nosuid",
        "dev",
        "nodev",
        "exec",
        "noexec",
        "sync",
        "async",
        "atime",
        "noatime",
        "diratime",
        "nodiratime",
        "relatime",
        "norelatime",
        "strictatime",
        "nosymfollow",
        "tmpcopyup",
        "defaults",
    ];
    let number = |text: &str, radix| u32::from_str_radix(text, radix).is_ok();
    let valid = match word.split_once('=') {
        None => flags.contains(&word) || PROPAGATION.contains(&word),
        Some(("size", value)) => size(value).is_ok() || value.ends_with('%'),
        Some(("mode", value)) => number(value, 8),
        Some(("uid" | "gid", value)) => number(value, 10),
        Some(("nr_inodes" | "nr_blocks", value)) => size(value).is_ok(),
        Some(("huge" | "mpol", _)) => true,
        Some(_) => false,
    };
    match valid {
        true => Ok(word.to_owned()),
        false => Err(Error::invalid(format!("{word:?} is no option of a tmpfs"))),
    }
}

fn memory<'a>(target: &str, fields: impl Iterator<Item = (&'a str, &'a str)>) -> Result<Mount> {
    let mut mount = tmpfs(target)?;
    for (name, value) in fields {
        match name {
            "tmpfs-size" => mount.options.push(format!("size={}", size(value)?)),
            "tmpfs-mode" => mount.options.push(memory_option(&format!("mode={value}"))?),
            "readonly" | "ro" if truth(value)? => mount.options.push("ro".into()),
            "readonly" | "ro" => {}
            other => return Err(Error::invalid(format!("{other:?} is no field of a tmpfs"))),
        }
    }
    Ok(mount)
}

/// A bind mount that is being read.
struct Bind {
    mount: Mount,
    recursive: bool,
    /// Also what is mounted below becomes read-only.
    deep: bool,
    propagation: String,
}

impl Bind {
    fn new(source: &str, target: &str, cwd: &Path) -> Result<Self> {
        let source = rcrun_runtime::template::clean(&cwd.join(source));
        Self::of(Source::Host(source), target)
    }

    fn of_volume(name: Option<&str>, target: &str) -> Result<Self> {
        let volume = Volume {
            name: name.map(str::to_owned),
            copy: true,
            labels: BTreeMap::new(),
        };
        Self::of(Source::Volume(volume), target)
    }

    fn of(source: Source, target: &str) -> Result<Self> {
        let destination = inside(target)?;
        if destination == "/" {
            return Err(Error::invalid(
                "nothing can be mounted at the container's /",
            ));
        }
        let mount = Mount {
            destination,
            source,
            options: Vec::new(),
            read_only: false,
        };
        Ok(Self {
            mount,
            recursive: true,
            deep: true,
            propagation: "rprivate".into(),
        })
    }

    fn word(&mut self, word: &str) -> Result<()> {
        match word {
            "ro" | "readonly" => self.mount.read_only = true,
            "rw" => self.mount.read_only = false,
            // Labels of SELinux: without it they mean nothing, as for docker.
            "z" | "Z" if !selinux() => {}
            "z" | "Z" => {
                return Err(Error::unsupported(
                    "files are not labelled anew: use chcon, or --security-opt label=disable",
                ));
            }
            "nocopy" => match &mut self.mount.source {
                Source::Volume(volume) => volume.copy = false,
                _ => return Err(Error::invalid("\"nocopy\" is for volumes with a name")),
            },
            // Docker's, for a Mac.
            "cached" | "delegated" | "consistent" => {}
            // A volume is one directory of ours, in which nothing is mounted.
            word if PROPAGATION.contains(&word) && self.is_volume() => {
                return Err(Error::invalid(format!(
                    "{word:?} means nothing for a volume"
                )));
            }
            "bind" => self.recursive = false,
            "rbind" => self.recursive = true,
            word if PROPAGATION.contains(&word) => self.propagation = word.to_owned(),
            word if BIND_WORDS.contains(&word) => self.mount.options.push(word.to_owned()),
            other => {
                return Err(Error::invalid(format!(
                    "{other:?} is no option of a volume"
                )));
            }
        }
        Ok(())
    }

    fn is_volume(&self) -> bool {
        matches!(self.mount.source, Source::Volume(_))
    }

    fn volume_field(&mut self, name: &str, value: &str) -> Result<()> {
        let Source::Volume(volume) = &mut self.mount.source else {
            return Ok(());
        };
        match (name, value) {
            ("readonly" | "ro", value) => self.mount.read_only = truth(value)?,
            ("volume-nocopy", value) => volume.copy = !truth(value)?,
            ("volume-label", text) => volume.labels.extend([words::label(text)?]),
            ("volume-driver", "" | "local") => {}
            ("volume-driver", other) => {
                return Err(Error::unsupported(format!(
                    "there is no volume driver {other:?}: use local, or mount it on the host and bind it"
                )));
            }
            ("volume-opt" | "volume-subpath", _) => {
                return Err(Error::unsupported(format!(
                    "{name} is not supported: bind a directory of the host instead"
                )));
            }
            _ => {
                return Err(Error::invalid(format!(
                    "{name}={value} means nothing for a volume"
                )));
            }
        }
        Ok(())
    }

    fn field(&mut self, name: &str, value: &str) -> Result<()> {
        match (name, value) {
            ("readonly" | "ro", value) => self.mount.read_only = truth(value)?,
            ("bind-propagation", value) if PROPAGATION.contains(&value) => {
                self.propagation = value.to_owned();
            }
            ("bind-nonrecursive", value) => self.recursive = !truth(value)?,
            ("bind-recursive", "enabled" | "readonly") => {
                (self.recursive, self.deep) = (true, true);
            }
            ("bind-recursive", "writable") => (self.recursive, self.deep) = (true, false),
            ("bind-recursive", "disabled") => self.recursive = false,
            _ => {
                return Err(Error::invalid(format!(
                    "{name}={value} means nothing for a bind mount"
                )));
            }
        }
        Ok(())
    }

    fn finish(self) -> Mount {
        let mut mount = self.mount;
        let bind = if self.recursive { "rbind" } else { "bind" };
        mount.options.insert(0, bind.to_owned());
        mount.options.push(self.propagation);
        if mount.read_only {
            mount.options.push("ro".into());
        }
        mount.read_only &= self.recursive && self.deep;
        mount
    }
}

fn selinux() -> bool {
    Path::new("/sys/fs/selinux/enforce").exists()
}

fn truth(value: &str) -> Result<bool> {
    crate::arguments::switch(value)
        .ok_or_else(|| Error::invalid(format!("{value:?} is neither true nor false")))
}

/// One record of comma-separated values (RFC 4180), as docker reads `--mount`.
fn csv(text: &str) -> Result<Vec<String>> {
    let mut fields = vec![String::new()];
    let mut quoted = false;
    let mut characters = text.chars().peekable();
    while let Some(character) = characters.next() {
        let last = fields.last().map(String::is_empty);
        match character {
            '"' if quoted && characters.peek() == Some(&'"') => {
                characters.next();
                push(&mut fields, '"');
            }
            '"' if quoted => quoted = false,
            '"' if last == Some(true) => quoted = true,
            ',' if !quoted => fields.push(String::new()),
            other => push(&mut fields, other),
        }
    }
    match quoted {
        true => Err(Error::invalid(format!(
            "{text:?} has a quote without an end"
        ))),
        false => Ok(fields),
    }
}

fn push(fields: &mut [String], character: char) {
    if let Some(last) = fields.last_mut() {
        last.push(character);
    }
}

#[cfg(test)]
mod tests;
