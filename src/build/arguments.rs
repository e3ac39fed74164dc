//! What flags of `build` mean, word by word.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use rcrun_builder::solve::Secret;
use rcrun_overlay::compress::Compression;
use rcrun_runtime::error::{Context, Error, ErrorKind, Result};

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
pub(super) fn home(path: &str) -> PathBuf {
    match (path.strip_prefix("~/"), std::env::var_os("HOME")) {
        (Some(rest), Some(home)) => PathBuf::from(home).join(rest),
        _ => PathBuf::from(path),
    }
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
