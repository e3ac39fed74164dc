//! `--security-opt`.

use rcrun_runtime::error::{Error, Result};

/// What `--security-opt` says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Security {
    pub(crate) no_new_privileges: bool,
    pub(crate) seccomp: Seccomp,
    pub(crate) apparmor: Option<String>,
    /// SELinux: no label at all.
    pub(crate) label_disabled: bool,
    /// SELinux: parts of the label, `user`, `role`, `type`, `level`.
    pub(crate) label: Vec<(String, String)>,
    pub(crate) unmasked: bool,
}

/// Which system calls are filtered.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) enum Seccomp {
    #[default]
    Default,
    Unconfined,
    File(std::path::PathBuf),
}

impl Security {
    /// Takes one option.
    pub(crate) fn take(&mut self, text: &str) -> Result<()> {
        let (name, value) = match text.split_once('=').or_else(|| text.split_once(':')) {
            Some((name, value)) => (name, Some(value)),
            None => (text, None),
        };
        let wrong = || Error::invalid(format!("{text:?} is no security option"));
        match (name, value) {
            ("no-new-privileges", value) => {
                let truth = crate::arguments::switch(value.unwrap_or_default());
                self.no_new_privileges = truth.ok_or_else(wrong)?;
            }
            ("seccomp", Some("unconfined")) => self.seccomp = Seccomp::Unconfined,
            ("seccomp", Some("builtin" | "default")) => self.seccomp = Seccomp::Default,
            ("seccomp", Some(path)) if !path.is_empty() => {
                self.seccomp = Seccomp::File(path.into());
            }
            ("apparmor", Some(profile)) if !profile.is_empty() => {
                self.apparmor = Some(profile.to_owned());
            }
            ("label", Some("disable")) => self.label_disabled = true,
            ("label", Some(part)) => {
                let (name, value) = part.split_once(':').ok_or_else(wrong)?;
                if !["user", "role", "type", "level"].contains(&name) || value.is_empty() {
                    return Err(wrong());
                }
                self.label.push((name.to_owned(), value.to_owned()));
            }
            ("systempaths", Some("unconfined")) => self.unmasked = true,
            _ => return Err(wrong()),
        }
        Ok(())
    }

    /// The SELinux label, if parts of one were given.
    pub(crate) fn selinux(&self) -> Option<String> {
        if self.label.is_empty() || self.label_disabled {
            return None;
        }
        let part = |name: &str, default: &str| {
            let found = self.label.iter().rev().find(|(part, _)| part == name);
            found.map_or_else(|| default.to_owned(), |(_, value)| value.clone())
        };
        Some(format!(
            "{}:{}:{}:{}",
            part("user", "system_u"),
            part("role", "system_r"),
            part("type", "container_t"),
            part("level", "s0")
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn security_options() {
        let mut security = Security::default();
        for text in [
            "no-new-privileges",
            "seccomp=/p.json",
            "apparmor:web",
            "label=type:web_t",
            "label=level:s0:c1,c2",
            "systempaths=unconfined",
        ] {
            security.take(text).unwrap();
        }
        assert!(security.no_new_privileges && security.unmasked);
        assert_eq!(security.seccomp, Seccomp::File("/p.json".into()));
        assert_eq!(security.apparmor.as_deref(), Some("web"));
        let label = security.selinux().unwrap();
        assert_eq!(label, "system_u:system_r:web_t:s0:c1,c2");
        for text in [
            "",
            "shiny",
            "seccomp",
            "seccomp=",
            "label=x",
            "label=shoe:9",
            "no-new-privileges=x",
        ] {
            Security::default().take(text).unwrap_err();
        }
    }
}
