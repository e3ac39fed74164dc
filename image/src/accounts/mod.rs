//! Who a container's program is: `USER[:GROUP]` looked up in the image's /etc/passwd and /etc/group,
//! which are a stranger's (passwd(5), group(5)).
//!
//! Only whole numbers below 2^31 are ids, so that none of them wraps around to root; a name is never
//! looked up on the host. Lines that are malformed or too long count as missing.

mod read;

use crate::{Error, ErrorKind, Result};
pub use read::accounts;

/// The largest id.
const LARGEST: u32 = i32::MAX as u32;
/// The longest line that counts.
const LINE: usize = 64 << 10;
/// How many supplementary groups a process can have (NGROUPS_MAX).
const GROUPS: usize = 65_536;

/// The two files of the image, as far as they exist.
#[derive(Debug, Default, Clone)]
pub struct Accounts {
    /// /etc/passwd.
    pub passwd: Vec<u8>,
    /// /etc/group.
    pub group: Vec<u8>,
}

/// Numbers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// The user.
    pub uid: u32,
    /// The group.
    pub gid: u32,
    /// Other groups.
    pub additional: Vec<u32>,
}

impl Accounts {
    /// The identity that `user` (of the flag or the image; empty is root) and `--group-add` stand for.
    pub fn identity(&self, user: &str, add: &[String]) -> Result<Identity> {
        let (user, group) = match user.split_once(':') {
            Some((user, group)) => (user, Some(group).filter(|group| !group.is_empty())),
            None => (user, None),
        };
        let user = if user.is_empty() { "0" } else { user };
        let number = number(user)?;
        let entry = self.passwd(|name, uid| match number {
            Some(number) => uid == number,
            None => name == user.as_bytes(),
        });
        let (uid, own_group) = match (&entry, number) {
            (Some(entry), _) => (entry.uid, entry.gid),
            (None, Some(number)) => (number, 0),
            (None, None) => return Err(missing("user", user, "/etc/passwd")),
        };
        let mut additional = Vec::new();
        let gid = match group {
            Some(group) => self.gid(group)?,
            None => {
                if let Some(entry) = &entry {
                    additional = self.memberships(&entry.name);
                }
                own_group
            }
        };
        for group in add {
            additional.push(self.gid(group)?);
        }
        let mut seen = std::collections::HashSet::new();
        additional.retain(|gid| seen.insert(*gid));
        if additional.len() > GROUPS {
            return Err(Error::invalid(format!(
                "user {user} is in more than {GROUPS} groups of the image"
            )));
        }
        Ok(Identity {
            uid,
            gid,
            additional,
        })
    }

    fn gid(&self, group: &str) -> Result<u32> {
        if let Some(number) = number(group)? {
            return Ok(number);
        }
        let found = lines(&self.group).find_map(|line| {
            let [name, _, gid, ..] = fields(line)[..] else {
                return None;
            };
            (name == group.as_bytes()).then(|| id(gid)).flatten()
        });
        found.ok_or_else(|| missing("group", group, "/etc/group"))
    }

    fn passwd(&self, wanted: impl Fn(&[u8], u32) -> bool) -> Option<Entry> {
        lines(&self.passwd).find_map(|line| {
            let [name, _, uid, gid, ..] = fields(line)[..] else {
                return None;
            };
            let (uid, gid) = (id(uid)?, id(gid)?);
            let name = name.to_vec();
            wanted(&name, uid).then_some(Entry { name, uid, gid })
        })
    }

    fn memberships(&self, user: &[u8]) -> Vec<u32> {
        let member = |line| {
            let [_, _, gid, members, ..] = fields(line)[..] else {
                return None;
            };
            let is_in = members.split(|byte| *byte == b',').any(|name| name == user);
            is_in.then(|| id(gid)).flatten()
        };
        lines(&self.group).filter_map(member).collect()
    }
}

struct Entry {
    name: Vec<u8>,
    uid: u32,
    gid: u32,
}

/// Digits are a number, also where an account has such a name; a number that is no id is an error, not
/// a name.
fn number(text: &str) -> Result<Option<u32>> {
    let digits = text.strip_prefix('-').unwrap_or(text);
    if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return Ok(None);
    }
    match text.parse::<u32>() {
        Ok(number) if number <= LARGEST => Ok(Some(number)),
        _ => Err(Error::invalid(format!(
            "{text} is no id: use 0 to {LARGEST}"
        ))),
    }
}

fn id(text: &[u8]) -> Option<u32> {
    let text = std::str::from_utf8(text).ok()?;
    number(text).ok().flatten()
}

fn missing(what: &str, name: &str, file: &str) -> Error {
    Error::new(
        ErrorKind::NotFound,
        format!("no {what} {name:?} in the image's {file}"),
    )
}

fn lines(text: &[u8]) -> impl Iterator<Item = &[u8]> {
    text.split(|byte| *byte == b'\n')
        .filter(|line| line.len() <= LINE && !line.starts_with(b"#"))
}

fn fields(line: &[u8]) -> Vec<&[u8]> {
    // passwd(5) has seven; more are none of our business.
    line.splitn(8, |byte| *byte == b':').collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn accounts() -> Accounts {
        let long = "x".repeat(LINE);
        Accounts {
            passwd: format!(
                "root:x:0:0:root:/root:/bin/sh\n#gone:x:5:5::/:\n{long}:x:9:9::/:\n\
                 app:x:1000:1001::/home/app:/bin/sh\n1234:x:77:78::/:\nbroken:x\nwrap:x:4294967296:0::/:\n\
                 minus:x:-1:0::/:\nhex:x:0x10:0::/:\nlast:x:12:13::/"
            )
            .into_bytes(),
            group: b"root:x:0:\nwheel:x:10:root,app\napp:x:1001:\nextra:x:2000:app\nodd:x:4294967295:app\n\
                     tail:x:3000:other,app"
                .to_vec(),
        }
    }

    #[test]
    fn users_and_groups() {
        let accounts = accounts();
        for (text, add, expected) in [
            ("", &[][..], Some((0, 0, vec![10]))),
            ("root", &[], Some((0, 0, vec![10]))),
            ("app", &[], Some((1000, 1001, vec![10, 2000, 3000]))),
            ("1000", &[], Some((1000, 1001, vec![10, 2000, 3000]))),
            ("app:wheel", &[], Some((1000, 10, vec![]))),
            ("app:", &[], Some((1000, 1001, vec![10, 2000, 3000]))),
            (":wheel", &[], Some((0, 10, vec![]))),
            ("app:55", &["extra", "66"], Some((1000, 55, vec![2000, 66]))),
            ("5000", &[], Some((5000, 0, vec![]))),
            ("5000:6000", &[], Some((5000, 6000, vec![]))),
            // Digits are a number, also where an account has such a name.
            ("1234", &[], Some((1234, 0, vec![]))),
            ("last", &[], Some((12, 13, vec![]))),
            ("gone", &[], None),
            ("#gone", &[], None),
            ("broken", &[], None),
            ("wrap", &[], None),
            ("minus", &[], None),
            ("hex", &[], None),
            ("nobody", &[], None),
            ("app:nothing", &[], None),
            ("app", &["nothing"], None),
            ("4294967295", &[], None),
            ("4294967296", &[], None),
            ("2147483648", &[], None),
            ("-1", &[], None),
            ("18446744073709551616", &[], None),
            ("0:4294967296", &[], None),
        ] {
            let add: Vec<String> = add.iter().map(ToString::to_string).collect();
            let found = accounts.identity(text, &add).ok();
            let found = found.map(|one| (one.uid, one.gid, one.additional));
            assert_eq!(found, expected, "{text} {add:?}");
        }
    }

    #[test]
    fn without_files_only_numbers_are_known() {
        let none = Accounts::default();
        assert_eq!(none.identity("", &[]).unwrap().uid, 0);
        assert_eq!(none.identity("7:8", &[]).unwrap().gid, 8);
        let error = none.identity("app", &[]).unwrap_err();
        assert_eq!(
            error.to_string(),
            "no user \"app\" in the image's /etc/passwd"
        );
        none.identity("root", &[]).unwrap_err();
    }

    #[test]
    fn garbage_is_no_account() {
        let garbage = Accounts {
            passwd: (0..=255).cycle().take(100_000).collect(),
            group: vec![b':'; 100_000],
        };
        assert_eq!(garbage.identity("0", &[]).unwrap().gid, 0);
        garbage.identity("root", &[]).unwrap_err();
    }
}
