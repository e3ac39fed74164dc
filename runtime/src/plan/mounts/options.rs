//! The words of a mount's `options` -> flags, attributes, data (mount(8); runtime-spec
//! config-linux.md, "Mount options"). Pure.
//!
//! Options that the table here does not know are file system data and go to the kernel as they are.

use crate::sys::mount::{MountAttr, attr};

/// Everything that a list of option words says.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// `MS_*` flags to set.
    pub flags: u64,
    /// `MS_*` flags to clear.
    pub cleared: u64,
    /// Attributes with the recursive forms.
    pub recursive: MountAttr,
    /// Propagation changes in order.
    pub propagation: Vec<u64>,
    /// What remains, for the file system.
    pub data: Vec<String>,
    /// `tmpcopyup`.
    pub copy_up: bool,
    /// `idmap` (false) or `ridmap` (true).
    pub idmap: Option<bool>,
}

enum Meaning {
    Set(u64),
    Clear(u64),
    Propagation(u64),
    /// Recursive attribute: (set, clear).
    Recursive(u64, u64),
    CopyUp,
    Idmap(bool),
    Nothing,
}

use Meaning::{Clear, Nothing, Propagation, Recursive, Set};

/// All option words that are not file system data, sorted by name; `features` prints the names.
const OPTIONS: &[(&str, Meaning)] = &[
    ("acl", Set(libc::MS_POSIXACL)),
    ("async", Clear(libc::MS_SYNCHRONOUS)),
    ("atime", Clear(libc::MS_NOATIME)),
    ("bind", Set(libc::MS_BIND)),
    ("defaults", Nothing),
    ("dev", Clear(libc::MS_NODEV)),
    ("diratime", Clear(libc::MS_NODIRATIME)),
    ("dirsync", Set(libc::MS_DIRSYNC)),
    ("exec", Clear(libc::MS_NOEXEC)),
    ("idmap", Meaning::Idmap(false)),
    ("iversion", Set(libc::MS_I_VERSION)),
    ("lazytime", Set(libc::MS_LAZYTIME)),
    ("loud", Clear(libc::MS_SILENT)),
    ("mand", Set(libc::MS_MANDLOCK)),
    ("noacl", Clear(libc::MS_POSIXACL)),
    ("noatime", Set(libc::MS_NOATIME)),
    ("nodev", Set(libc::MS_NODEV)),
    ("nodiratime", Set(libc::MS_NODIRATIME)),
    ("noexec", Set(libc::MS_NOEXEC)),
    ("noiversion", Clear(libc::MS_I_VERSION)),
    ("nolazytime", Clear(libc::MS_LAZYTIME)),
    ("nomand", Clear(libc::MS_MANDLOCK)),
    ("norelatime", Clear(libc::MS_RELATIME)),
    ("nostrictatime", Clear(libc::MS_STRICTATIME)),
    ("nosuid", Set(libc::MS_NOSUID)),
    ("nosymfollow", Set(libc::MS_NOSYMFOLLOW)),
    ("private", Propagation(libc::MS_PRIVATE)),
    ("ratime", Recursive(0, attr::ATIME)),
    ("rbind", Set(libc::MS_BIND | libc::MS_REC)),
    ("rdev", Recursive(0, attr::NODEV)),
    ("rdiratime", Recursive(0, attr::NODIRATIME)),
    ("relatime", Set(libc::MS_RELATIME)),
    ("remount", Set(libc::MS_REMOUNT)),
    ("rexec", Recursive(0, attr::NOEXEC)),
    ("ridmap", Meaning::Idmap(true)),
    ("rnoatime", Recursive(attr::NOATIME, attr::ATIME)),
    ("rnodev", Recursive(attr::NODEV, 0)),
    ("rnodiratime", Recursive(attr::NODIRATIME, 0)),
    ("rnoexec", Recursive(attr::NOEXEC, 0)),
    ("rnorelatime", Recursive(0, attr::ATIME)),
    ("rnostrictatime", Recursive(0, attr::ATIME)),
    ("rnosuid", Recursive(attr::NOSUID, 0)),
    ("rnosymfollow", Recursive(attr::NOSYMFOLLOW, 0)),
    ("ro", Set(libc::MS_RDONLY)),
    ("rprivate", Propagation(libc::MS_PRIVATE | libc::MS_REC)),
    ("rrelatime", Recursive(0, attr::ATIME)),
    ("rro", Recursive(attr::RDONLY, 0)),
    ("rrw", Recursive(0, attr::RDONLY)),
    ("rshared", Propagation(libc::MS_SHARED | libc::MS_REC)),
    ("rslave", Propagation(libc::MS_SLAVE | libc::MS_REC)),
    ("rstrictatime", Recursive(attr::STRICTATIME, attr::ATIME)),
    ("rsuid", Recursive(0, attr::NOSUID)),
    ("rsymfollow", Recursive(0, attr::NOSYMFOLLOW)),
    (
        "runbindable",
        Propagation(libc::MS_UNBINDABLE | libc::MS_REC),
    ),
    ("rw", Clear(libc::MS_RDONLY)),
    ("shared", Propagation(libc::MS_SHARED)),
    ("silent", Set(libc::MS_SILENT)),
    ("slave", Propagation(libc::MS_SLAVE)),
    ("strictatime", Set(libc::MS_STRICTATIME)),
    ("suid", Clear(libc::MS_NOSUID)),
    ("symfollow", Clear(libc::MS_NOSYMFOLLOW)),
    ("sync", Set(libc::MS_SYNCHRONOUS)),
    ("tmpcopyup", Meaning::CopyUp),
    ("unbindable", Propagation(libc::MS_UNBINDABLE)),
];

/// Names of all mount options with a meaning of their own, sorted.
pub fn option_names() -> impl Iterator<Item = &'static str> {
    OPTIONS.iter().map(|(name, _)| *name)
}

/// Sorts option words into flags, attributes and data. A later word overrides an earlier one.
pub fn parse_options<S: AsRef<str>>(words: &[S]) -> Options {
    let mut options = Options::default();
    for word in words {
        let word = word.as_ref();
        let Ok(found) = OPTIONS.binary_search_by(|(name, _)| (*name).cmp(word)) else {
            options.data.push(word.to_owned());
            continue;
        };
        match OPTIONS[found].1 {
            Set(flag) => {
                if flag & (libc::MS_NOATIME | libc::MS_RELATIME | libc::MS_STRICTATIME) != 0 {
                    options.flags &= !(libc::MS_NOATIME | libc::MS_RELATIME | libc::MS_STRICTATIME);
                }
                options.flags |= flag;
                options.cleared &= !flag;
            }
            Clear(flag) => {
                options.flags &= !flag;
                options.cleared |= flag;
            }
            Propagation(flag) => options.propagation.push(flag),
            Recursive(set, clear) => {
                options.recursive.clear = (options.recursive.clear & !set) | clear;
                options.recursive.set = (options.recursive.set & !clear) | set;
            }
            Meaning::CopyUp => options.copy_up = true,
            Meaning::Idmap(recursive) => options.idmap = Some(recursive),
            Nothing => {}
        }
    }
    options
}

const FLAG_ATTRIBUTES: &[(u64, u64)] = &[
    (libc::MS_RDONLY, attr::RDONLY),
    (libc::MS_NOSUID, attr::NOSUID),
    (libc::MS_NODEV, attr::NODEV),
    (libc::MS_NOEXEC, attr::NOEXEC),
    (libc::MS_NODIRATIME, attr::NODIRATIME),
    (libc::MS_NOSYMFOLLOW, attr::NOSYMFOLLOW),
];

/// The per-mount attributes that `MS_*` flags stand for: what a bind mount can change. Flags that
/// were not named keep the value of the mount that is bound.
pub fn attributes(set: u64, cleared: u64) -> MountAttr {
    let mut result = MountAttr::default();
    for (flag, attribute) in FLAG_ATTRIBUTES {
        if set & flag != 0 {
            result.set |= attribute;
        } else if cleared & flag != 0 {
            result.clear |= attribute;
        }
    }
    if set & libc::MS_NOATIME != 0 {
        result.set |= attr::NOATIME;
    } else if set & libc::MS_STRICTATIME != 0 {
        result.set |= attr::STRICTATIME;
    }
    // Only setting one of the modes changes the mode: that is how remounting behaves.
    let atime = libc::MS_NOATIME | libc::MS_STRICTATIME | libc::MS_RELATIME | libc::MS_NODIRATIME;
    if set & atime != 0 {
        result.clear |= attr::ATIME | (attr::NODIRATIME & !result.set);
    } else {
        result.clear &= !attr::NODIRATIME;
    }
    result
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> Options {
        parse_options(
            &text
                .split(',')
                .filter(|w| !w.is_empty())
                .collect::<Vec<_>>(),
        )
    }

    #[test]
    fn table_is_sorted_for_the_binary_search() {
        assert!(OPTIONS.is_sorted_by_key(|(name, _)| *name));
    }

    #[test]
    fn later_words_override_earlier_ones() {
        assert_eq!(words("ro,rw").flags, 0);
        assert_eq!(words("ro,rw").cleared, libc::MS_RDONLY);
        assert_eq!(words("rw,ro").flags, libc::MS_RDONLY);
        assert_eq!(words("rw,ro").cleared, 0);
        assert_eq!(words("noatime,strictatime").flags, libc::MS_STRICTATIME);
        assert_eq!(
            words("rro,rrw").recursive,
            MountAttr {
                clear: attr::RDONLY,
                ..Default::default()
            }
        );
    }

    #[test]
    fn unknown_words_are_data() {
        let options = words("nosuid,size=64k,mode=1777");
        assert_eq!(options.data, ["size=64k", "mode=1777"]);
        assert_eq!(options.flags, libc::MS_NOSUID);
    }

    #[test]
    fn access_time_modes_replace_each_other() {
        let noatime = attributes(libc::MS_NOATIME, 0);
        let all = attr::ATIME | attr::NODIRATIME;
        assert_eq!((noatime.set, noatime.clear), (attr::NOATIME, all));
        let relatime = attributes(libc::MS_RELATIME, 0);
        assert_eq!((relatime.set, relatime.clear), (0, all));
        assert!(attributes(0, libc::MS_NOATIME | libc::MS_NODIRATIME).is_empty());
        assert!(attributes(0, 0).is_empty());
    }
}
