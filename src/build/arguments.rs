//! What flags of `build` mean, word by word.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use rcrun_builder::solve::Secret;
use rcrun_overlay::compress::Compression;
use rcrun_runtime::error::{Context, Error, ErrorKind, Result};

use super::annotations::Annotations;

/// The longest secret (docker's limit).
const SECRET: u64 = 500 << 10;

/// Fields of `a=b,c=d`; one without `=` has nothing. Quotes hold commas together, as in CSV.
pub(super) fn fields(text: &str) -> Vec<(String, Option<String>)> {
    let mut fields = Vec::new();
    let mut word = String::new();
    let mut quoted = false;
    for c in text.chars().chain([',']) {
        match c {
            '"' => quoted = !quoted,
            ',' if !quoted => {
                let field = std::mem::take(&mut word);
                fields.push(match field.split_once('=') {
                    Some((name, value)) => (name.to_lowercase(), Some(value.to_owned())),
                    None => (field.to_lowercase(), None),
                });
            }
            c => word.push(c),
        }
    }
    fields
}

/// `NAME=VALUE`; a name alone takes its value from `variable`, and is left out if there is none.
pub(super) fn pairs(
    flags: &[String],
    variable: &dyn Fn(&str) -> Option<String>,
) -> Result<BTreeMap<String, String>> {
    let mut all = BTreeMap::new();
    for text in flags {
        let (name, value) = match text.split_once('=') {
            Some((name, value)) => (name, Some(value.to_owned())),
            None => (text.as_str(), variable(text)),
        };
        if name.is_empty() {
            return Err(Error::invalid(format!("{text:?} has no name")));
        }
        if let Some(value) = value {
            all.insert(name.to_owned(), value);
        }
    }
    Ok(all)
}

/// `--secret id=ID,src=FILE`.
pub(super) fn secret(text: &str) -> Result<(String, Secret)> {
    let (mut id, mut file, mut variable, mut kind) = (None, None, None, None);
    for (name, value) in fields(text) {
        let value = value.ok_or_else(|| Error::invalid(format!("{name:?} is not NAME=VALUE")));
        match name.as_str() {
            "id" => id = Some(value?),
            "src" | "source" => file = Some(value?),
            "env" => variable = Some(value?),
            "type" => kind = Some(value?),
            other => return Err(Error::invalid(format!("{other:?} is no field of a secret"))),
        }
    }
    match kind.as_deref() {
        None | Some("file") => {}
        Some("env") => variable = variable.or_else(|| file.take()).or_else(|| id.clone()),
        Some(other) => {
            return Err(Error::invalid(format!(
                "unknown type {other:?} of a secret"
            )));
        }
    }
    let id = id
        .filter(|id| !id.is_empty())
        .ok_or_else(|| Error::invalid("a secret needs an id"))?;
    let of_variable = |name: &str| {
        let missing = || Error::new(ErrorKind::NotFound, format!("there is no variable {name}"));
        std::env::var_os(name)
            .map(std::os::unix::ffi::OsStringExt::into_vec)
            .ok_or_else(missing)
    };
    let bytes = match (file, variable) {
        (Some(_), Some(_)) => {
            return Err(Error::invalid("a secret is a file or a variable, not both"));
        }
        (Some(file), None) => read(&home(&file))?,
        (None, Some(variable)) => of_variable(&variable)?,
        // As docker: a variable of that name, or else a file.
        (None, None) => match of_variable(&id) {
            Ok(bytes) => bytes,
            Err(_) => read(Path::new(&id))?,
        },
    };
    if bytes.len() as u64 > SECRET {
        return Err(Error::invalid(format!(
            "secret {id} is longer than {SECRET} bytes"
        )));
    }
    Ok((id, Secret(bytes)))
}

fn read(path: &Path) -> Result<Vec<u8>> {
    use std::io::Read;
    let context = || format!("cannot read {}", path.display());
    let file = std::fs::File::open(path).context(context)?;
    if !file.metadata().context(context)?.is_file() {
        return Err(Error::invalid("it is no file")).context(context);
    }
    let mut bytes = Vec::new();
    file.take(SECRET + 1)
        .read_to_end(&mut bytes)
        .context(context)?;
    Ok(bytes)
}

/// `~/x` is somewhere else for everybody.
fn home(path: &str) -> PathBuf {
    match (path.strip_prefix("~/"), std::env::var_os("HOME")) {
        (Some(rest), Some(home)) => PathBuf::from(home).join(rest),
        _ => PathBuf::from(path),
    }
}

/// `--ssh ID[=SOCKET]`: the socket of an agent.
pub(super) fn agent(text: &str) -> Result<(String, PathBuf)> {
    let (id, path) = match text.split_once('=') {
        Some((id, path)) => (id, Some(home(path))),
        None => (text, None),
    };
    let path = match path {
        Some(path) => path,
        None => std::env::var_os("SSH_AUTH_SOCK")
            .map(PathBuf::from)
            .ok_or_else(|| {
                Error::new(
                    ErrorKind::NotFound,
                    "no SSH agent: SSH_AUTH_SOCK is not set",
                )
                .with_hint(
                    "start one with `eval $(ssh-agent)` and `ssh-add`, or give --ssh ID=SOCKET",
                )
            })?,
    };
    let kind = std::fs::metadata(&path)
        .context(|| format!("cannot use {}", path.display()))?
        .file_type();
    if !std::os::unix::fs::FileTypeExt::is_socket(&kind) {
        let text = format!("{} is not the socket of an SSH agent", path.display());
        return Err(Error::unsupported(text)
            .with_hint("keys are not read: `ssh-add` them to an agent, and forward that"));
    }
    let id = if id.is_empty() { "default" } else { id };
    Ok((id.to_owned(), path))
}

/// Where a result goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Output {
    /// The store; to a registry too with the second.
    Image {
        names: Vec<String>,
        push: bool,
        /// By its digest, and not under a tag.
        by_digest: bool,
    },
    /// An OCI layout in a directory, or in an archive; none is standard output.
    Oci {
        dest: Option<PathBuf>,
        archive: bool,
    },
    /// An archive as `docker save` writes it.
    Docker { dest: Option<PathBuf> },
    /// An archive of the files.
    Tar { dest: Option<PathBuf> },
    /// The files.
    Local {
        dest: PathBuf,
        /// In a directory of its platform, even if there is but one.
        split: bool,
    },
    /// Nothing is kept but what the cache has.
    Nothing,
}

/// How layers and documents are written.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct How {
    pub(super) compression: Option<Compression>,
    pub(super) level: Option<i32>,
    pub(super) docker: Option<bool>,
    pub(super) annotations: Annotations,
}

/// A field that is there or not, or says so.
pub(super) fn truth(name: &str, value: Option<&str>) -> Result<bool> {
    match value {
        None | Some("true" | "1") => Ok(true),
        Some("false" | "0") => Ok(false),
        Some(other) => Err(Error::invalid(format!(
            "{name}={other} is neither true nor false"
        ))),
    }
}

/// `--output`.
pub(super) fn output(text: &str) -> Result<(Output, How)> {
    let mut how = How::default();
    if text == "-" {
        return Ok((Output::Tar { dest: None }, how));
    }
    let fields = fields(text);
    if let [(_, None)] = fields.as_slice() {
        return Ok((
            Output::Local {
                dest: PathBuf::from(text),
                split: false,
            },
            how,
        ));
    }
    let (mut kind, mut dest, mut names) = (None, None, Vec::new());
    let (mut push, mut archive, mut by_digest, mut split) = (false, true, false, None);
    for (name, value) in fields {
        let truth = || truth(&name, value.as_deref());
        let text = || {
            value
                .clone()
                .ok_or_else(|| Error::invalid(format!("{name:?} is not NAME=VALUE")))
        };
        match name.as_str() {
            "type" => kind = Some(text()?),
            "dest" | "output" => dest = Some(text()?),
            "name" => names.extend(text()?.split(',').map(str::to_owned)),
            "push" => push = truth()?,
            "tar" => archive = truth()?,
            "oci-mediatypes" => how.docker = Some(!truth()?),
            "compression" => how.compression = Some(compression(&text()?)?),
            "compression-level" => {
                let level = text()?;
                let wrong = || Error::invalid(format!("{level:?} is no compression level"));
                how.level = Some(level.parse().map_err(|_| wrong())?);
            }
            "push-by-digest" => by_digest = truth()?,
            "platform-split" => split = Some(truth()?),
            other => {
                let value = value.as_deref();
                let annotated = how.annotations.field(other, value.unwrap_or_default())?;
                if !annotated {
                    settled(other, value)?;
                }
            }
        }
    }
    rcrun_overlay::compress::check_level(how.compression.unwrap_or(Compression::Gzip), how.level)?;
    let file = |dest: Option<String>| dest.filter(|dest| dest != "-").map(PathBuf::from);
    let output = match kind.as_deref() {
        Some(kind @ ("image" | "registry")) => Output::Image {
            names: std::mem::take(&mut names),
            push: push || kind == "registry",
            by_digest: std::mem::take(&mut by_digest),
        },
        Some("oci") => Output::Oci {
            dest: file(dest),
            archive,
        },
        Some("docker") => Output::Docker { dest: file(dest) },
        Some("tar") => Output::Tar { dest: file(dest) },
        Some("local") => {
            let missing = || Error::invalid("type=local needs dest=DIRECTORY");
            Output::Local {
                dest: dest.map(PathBuf::from).ok_or_else(missing)?,
                split: split == Some(true),
            }
        }
        Some("cacheonly") => Output::Nothing,
        Some(other) => {
            let text = format!("unknown type {other:?} of an output");
            return Err(Error::invalid(text)
                .with_hint("use image, registry, oci, docker, tar, local or cacheonly"));
        }
        None => {
            return Err(
                Error::invalid("an output needs a type").with_hint("such as type=local,dest=DIR")
            );
        }
    };
    if by_digest || !names.is_empty() {
        return Err(
            Error::invalid("name and push-by-digest are fields of an image or registry")
                .with_hint("--tag names what is in an archive"),
        );
    }
    if let Output::Image {
        push: false,
        by_digest: true,
        ..
    } = &output
    {
        return Err(Error::invalid("push-by-digest needs push=true"));
    }
    if split == Some(false) {
        return Err(Error::unsupported(
            "platform-split=false: files of several platforms go to directories of their own",
        ));
    }
    Ok((output, how))
}

/// Fields whose effect is what is done in any case; another value of them is refused, not passed over.
fn settled(name: &str, value: Option<&str>) -> Result<()> {
    let (is, why) = match name {
        "store" => (true, "the image is made in the store"),
        // Layers that are made here are unpacked as they are made.
        "unpack" => return truth(name, value).map(drop),
        "rewrite-timestamp" => (true, "no file is later than the image"),
        "force-compression" => (false, "layers of the base image stay as they are"),
        "registry.insecure" => (false, "the settings say which registries are insecure"),
        "name-canonical" => (
            false,
            "an image is found by its digest without a name for it",
        ),
        "prefer-nondist-layers" => (false, "all layers are pushed"),
        "oci-artifact" => (false, "attestations are images, which all registries take"),
        "mode" => {
            return match value {
                Some("copy") => Ok(()),
                other => Err(Error::unsupported(format!(
                    "mode={} of an output: files are added, and none is deleted",
                    other.unwrap_or_default()
                ))),
            };
        }
        _ => {
            return Err(Error::invalid(format!("{name:?} is no field of an output")));
        }
    };
    match truth(name, value)? == is {
        true => Ok(()),
        false => Err(Error::unsupported(format!("{name}={}: {why}", !is))),
    }
}

pub(super) fn compression(text: &str) -> Result<Compression> {
    Ok(match text {
        "uncompressed" => Compression::None,
        "gzip" => Compression::Gzip,
        "zstd" => Compression::Zstd,
        other => {
            let text = format!("unknown compression {other:?}");
            return Err(Error::unsupported(text).with_hint("use uncompressed, gzip or zstd"));
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn outputs() {
        let path = |text: &str| Some(PathBuf::from(text));
        for (text, expected) in [
            ("-", Output::Tar { dest: None }),
            (
                "out",
                Output::Local {
                    dest: "out".into(),
                    split: false,
                },
            ),
            (
                "type=local,dest=out,mode=copy,platform-split=true",
                Output::Local {
                    dest: "out".into(),
                    split: true,
                },
            ),
            (
                "type=tar,dest=a.tar",
                Output::Tar {
                    dest: path("a.tar"),
                },
            ),
            ("type=tar", Output::Tar { dest: None }),
            (
                "type=oci,dest=d,tar=false",
                Output::Oci {
                    dest: path("d"),
                    archive: false,
                },
            ),
            ("type=docker,dest=-", Output::Docker { dest: None }),
            (
                "type=image,\"name=a,b\",push=true",
                Output::Image {
                    names: vec!["a".into(), "b".into()],
                    push: true,
                    by_digest: false,
                },
            ),
            (
                "type=registry,name=a,push-by-digest=true,store=true,unpack=false,rewrite-timestamp=true",
                Output::Image {
                    names: vec!["a".into()],
                    push: true,
                    by_digest: true,
                },
            ),
            ("type=cacheonly", Output::Nothing),
        ] {
            assert_eq!(output(text).unwrap().0, expected, "{text}");
        }
        for text in [
            "type=",
            "type=x",
            "dest=a",
            "type=local",
            "type=image,unknown=1",
            "type=oci,tar=maybe",
            "type=image,compression=lzma",
            "type=image,compression-level=99",
            "type=image,push-by-digest=true",
            "type=oci,name=a",
            "type=image,store=false",
            "type=image,rewrite-timestamp=false",
            "type=image,force-compression=true",
            "type=registry,registry.insecure=true",
            "type=image,name-canonical=true",
            "type=image,prefer-nondist-layers",
            "type=image,oci-artifact=true",
            "type=image,dangling-name-prefix=x",
            "type=image,annotation-nowhere.a=b",
            "type=local,dest=d,mode=delete",
            "type=local,dest=d,platform-split=false",
        ] {
            output(text).unwrap_err();
        }
        let how = output(
            "type=image,compression=zstd,compression-level=9,annotation.a=b,oci-mediatypes=false",
        )
        .unwrap()
        .1;
        assert_eq!(how.compression, Some(Compression::Zstd));
        assert_eq!((how.level, how.docker), (Some(9), Some(true)));
        let manifest = how.annotations.manifest(&"linux/amd64".parse().unwrap());
        assert_eq!(manifest["a"], "b");
    }

    #[test]
    fn secrets_are_files_or_variables() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("file");
        std::fs::write(&file, "text").unwrap();
        let (id, secret) = secret(&format!("id=a,src={}", file.display())).unwrap();
        assert_eq!((id.as_str(), secret.0.as_slice()), ("a", &b"text"[..]));
        for text in [
            "src=x",
            "id=",
            "id=a,src=/nonexistent",
            "id=a,env=RCRUN_NO_SUCH",
            "id=a,what=b",
            "id=a,type=x",
            "id=a,src=/tmp",
        ] {
            super::secret(text).unwrap_err();
        }
        assert_eq!(
            super::secret("id=p,env=PATH").unwrap().1.0,
            std::env::var("PATH").unwrap().into_bytes()
        );
    }
}
