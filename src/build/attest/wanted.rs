//! `--attest`, `--provenance`, `--sbom`, and their arguments `BUILDKIT_ATTEST_...`: which statements are asked
//! for. Pure.

use std::collections::BTreeMap;

use rcrun_builder::attest::provenance::{Mode, Version};
use rcrun_runtime::error::{Context, Error, Result};

use crate::build::arguments::{fields, truth};

/// How build arguments begin that ask for statements.
const ARGUMENT: &str = "BUILDKIT_ATTEST_";
/// What provenance is called beside files.
const PROVENANCE_FILE: &str = "provenance.json";
/// What an SBOM is called there.
pub(super) const SBOM_FILE: &str = "sbom.spdx.json";

/// What is asked for. Nothing is attested unless it is, so that a single image is a single manifest.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(in crate::build) struct Wanted {
    pub(super) provenance: Option<Provenance>,
    pub(super) sbom: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Provenance {
    pub(super) version: Version,
    pub(super) mode: Mode,
    pub(super) builder: String,
    pub(super) reproducible: bool,
    pub(super) times: bool,
    /// Not beside files.
    pub(super) inline_only: bool,
    /// What it is called beside files.
    pub(super) file: String,
    /// Without all dependencies it is an error.
    pub(super) complete: bool,
}

impl Default for Provenance {
    fn default() -> Self {
        Self {
            version: Version::V1,
            mode: Mode::Max,
            builder: String::new(),
            reproducible: false,
            times: false,
            inline_only: false,
            file: PROVENANCE_FILE.to_owned(),
            complete: false,
        }
    }
}

impl Provenance {
    fn field(&mut self, name: &str, value: Option<&str>) -> Result<()> {
        let is = || truth(name, value);
        match (name, value) {
            ("mode", Some("min")) => self.mode = Mode::Min,
            ("mode", Some("max" | "full")) => self.mode = Mode::Max,
            ("version", Some("v1")) => self.version = Version::V1,
            ("version", Some("v0.2")) => self.version = Version::V02,
            ("version", Some(other)) => {
                return Err(Error::unsupported(format!("provenance {other:?}"))
                    .with_hint("use version=v1 or version=v0.2"));
            }
            ("builder-id", Some(id)) => id.clone_into(&mut self.builder),
            ("reproducible", _) => self.reproducible = is()?,
            ("times", _) => self.times = is()?,
            ("inline-only", _) => self.inline_only = is()?,
            ("complete-materials", _) => self.complete = is()?,
            ("filename", Some(path)) => {
                let file = path.trim_end_matches('/').rsplit('/').next();
                let file = file.filter(|file| !matches!(*file, "" | "." | ".." | SBOM_FILE));
                let wrong = || Error::invalid(format!("filename={path} is no name for provenance"));
                self.file = file.ok_or_else(wrong)?.to_owned();
            }
            ("capture-usage", _) => {
                if is()? {
                    let text = "capture-usage: what steps took is not measured";
                    return Err(Error::unsupported(text));
                }
            }
            (name, value) => {
                let value = value.unwrap_or_default();
                let text = format!("{name}={value} is no field of provenance");
                return Err(Error::invalid(text));
            }
        }
        Ok(())
    }
}

impl Wanted {
    /// Whether there is anything.
    pub(in crate::build) fn any(&self) -> bool {
        self.sbom || self.provenance.is_some()
    }

    /// `--build-arg BUILDKIT_ATTEST_PROVENANCE=...`; flags have the last word.
    pub(in crate::build) fn arguments(&mut self, all: &BTreeMap<String, String>) -> Result<()> {
        for (name, text) in all {
            let Some(kind) = name.strip_prefix(ARGUMENT) else {
                continue;
            };
            let read = match (kind.to_lowercase().as_str(), text.as_str()) {
                ("provenance", "") => self.set_provenance(&[]),
                ("provenance", text) => self.provenance(text),
                ("sbom", "") => self.set_sbom(&[]),
                ("sbom", text) => self.sbom(text),
                _ => Err(unknown(kind)),
            };
            read.context(|| format!("--build-arg {name}"))?;
        }
        Ok(())
    }

    /// `--attest type=...`.
    pub(in crate::build) fn flag(&mut self, text: &str) -> Result<()> {
        let mut rest = fields(text);
        let at = rest.iter().position(|(name, _)| name == "type");
        let kind = at.and_then(|at| rest.remove(at).1);
        match kind.as_deref() {
            Some("provenance") => self.set_provenance(&rest),
            Some("sbom") => self.set_sbom(&rest),
            Some(other) => Err(unknown(other)),
            None => Err(Error::invalid("an attestation needs a type")
                .with_hint("such as type=provenance,mode=max")),
        }
    }

    /// `--provenance`: true, false, or fields.
    pub(in crate::build) fn provenance(&mut self, text: &str) -> Result<()> {
        match truth("--provenance", Some(text)) {
            Ok(true) => self.set_provenance(&[]),
            Ok(false) => {
                self.provenance = None;
                Ok(())
            }
            Err(_) => self.set_provenance(&fields(text)),
        }
    }

    /// `--sbom`: true, false, or fields.
    pub(in crate::build) fn sbom(&mut self, text: &str) -> Result<()> {
        match truth("--sbom", Some(text)) {
            Ok(wanted) => {
                self.sbom = wanted;
                Ok(())
            }
            Err(_) => self.set_sbom(&fields(text)),
        }
    }

    fn set_provenance(&mut self, fields: &[(String, Option<String>)]) -> Result<()> {
        let mut wanted = Provenance::default();
        let mut disabled = false;
        for (name, value) in fields {
            match name.as_str() {
                "disabled" => disabled = truth(name, value.as_deref())?,
                name => wanted.field(name, value.as_deref())?,
            }
        }
        self.provenance = (!disabled).then_some(wanted);
        Ok(())
    }

    fn set_sbom(&mut self, fields: &[(String, Option<String>)]) -> Result<()> {
        let mut wanted = true;
        for (name, value) in fields {
            match name.as_str() {
                "disabled" => wanted = !truth(name, value.as_deref())?,
                "generator" => {
                    return Err(Error::unsupported(
                        "generator: packages are read by rcrun itself, and no other program is run",
                    ));
                }
                other => {
                    return Err(Error::invalid(format!("{other:?} is no field of an SBOM")));
                }
            }
        }
        self.sbom = wanted;
        Ok(())
    }
}

fn unknown(kind: &str) -> Error {
    Error::unsupported(format!("unknown type {kind:?} of an attestation"))
        .with_hint("use provenance or sbom")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(flags: &[(&str, &str)]) -> Result<Wanted> {
        let mut wanted = Wanted::default();
        for (name, value) in flags {
            match *name {
                "attest" => wanted.flag(value)?,
                "sbom" => wanted.sbom(value)?,
                _ => wanted.provenance(value)?,
            }
        }
        Ok(wanted)
    }

    #[test]
    fn flags() {
        let provenance = |mode| Provenance {
            mode,
            ..Provenance::default()
        };
        for (flags, mode, sbom) in [
            (&[][..], None, false),
            (&[("provenance", "true")], Some(Mode::Max), false),
            (&[("provenance", "mode=min")], Some(Mode::Min), false),
            (
                &[("provenance", "mode=full,version=v1")],
                Some(Mode::Max),
                false,
            ),
            (
                &[("provenance", "capture-usage=false")],
                Some(Mode::Max),
                false,
            ),
            (
                &[("attest", "type=provenance,mode=min")],
                Some(Mode::Min),
                false,
            ),
            (
                &[("attest", "type=provenance"), ("provenance", "false")],
                None,
                false,
            ),
            (&[("attest", "type=provenance,disabled=true")], None, false),
            (&[("sbom", "true")], None, true),
            (&[("attest", "type=sbom")], None, true),
            (&[("attest", "type=sbom"), ("sbom", "false")], None, false),
        ] {
            let expected = Wanted {
                provenance: mode.map(provenance),
                sbom,
            };
            assert_eq!(read(flags).unwrap(), expected, "{flags:?}");
        }
    }

    #[test]
    fn what_is_no_flag() {
        for flags in [
            ("attest", "mode=max"),
            ("attest", "type=x"),
            ("attest", "type=sbom,generator=image"),
            ("attest", "type=provenance,version=v0.3"),
            ("provenance", "capture-usage=true"),
            ("provenance", "filename=sbom.spdx.json"),
            ("provenance", "filename=a/.."),
            ("provenance", "filename="),
            ("provenance", "mode=all"),
            ("provenance", "unknown=1"),
            ("sbom", "maybe"),
        ] {
            read(&[flags]).unwrap_err();
        }
    }

    #[test]
    fn all_fields_of_provenance() {
        let more = [(
            "provenance",
            "builder-id=me,reproducible=true,times=true,version=v0.2,filename=a/b.json,\
             complete-materials=true,inline-only=1",
        )];
        let expected = Provenance {
            version: Version::V02,
            builder: "me".to_owned(),
            reproducible: true,
            times: true,
            inline_only: true,
            file: "b.json".to_owned(),
            complete: true,
            ..Provenance::default()
        };
        assert_eq!(read(&more).unwrap().provenance, Some(expected));
    }

    #[test]
    fn arguments_ask_too() {
        let of = |pairs: &[(&str, &str)]| -> Result<Wanted> {
            let all = pairs
                .iter()
                .map(|(name, value)| (format!("{ARGUMENT}{name}"), (*value).into()));
            let mut wanted = Wanted::default();
            wanted.arguments(&all.collect()).map(|()| wanted)
        };
        let min = Provenance {
            mode: Mode::Min,
            ..Provenance::default()
        };
        for (pairs, provenance, sbom) in [
            (&[][..], None, false),
            (
                &[("PROVENANCE", ""), ("SBOM", "")],
                Some(Provenance::default()),
                true,
            ),
            (
                &[("PROVENANCE", "mode=min"), ("SBOM", "true")],
                Some(min),
                true,
            ),
            (&[("PROVENANCE", "false")], None, false),
        ] {
            assert_eq!(of(pairs).unwrap(), Wanted { provenance, sbom }, "{pairs:?}");
        }
        for pair in [
            ("VSA", ""),
            ("PROVENANCE", "mode=some"),
            ("SBOM", "generator=x"),
        ] {
            of(&[pair]).unwrap_err();
        }
    }
}
