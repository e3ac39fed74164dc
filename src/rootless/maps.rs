//! Which ids an ordinary user's namespace has: subuid(5), subgid(5) -> the lines of uid_map and gid_map
//! (user_namespaces(7)). Pure.
//!
//! The user's own id becomes 0; behind it come the ranges of the files, in their order, as podman has
//! them, so that a file on the disk belongs to the same user in both. A line of the user's own that
//! makes no sense is an error: guessing would give ids to containers that belong to somebody.

use rcrun_runtime::error::{Error, Result};

/// What the kernel takes (`UID_GID_MAP_MAX_EXTENTS`).
const EXTENTS: usize = 340;
/// The id that no user can have, and the first number that is too large.
const END: u64 = u32::MAX as u64;
/// The longest file that is read.
pub(super) const FILE_LIMIT: u64 = 16 << 20;

/// A line of uid_map or gid_map.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Extent {
    pub(super) inside: u32,
    pub(super) outside: u32,
    pub(super) count: u32,
}

/// Whose files are read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct User {
    /// Of /etc/passwd; there may be none.
    pub(super) name: Option<String>,
    pub(super) uid: u32,
    pub(super) gid: u32,
}

/// What a user namespace is to have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Maps {
    pub(super) uids: Vec<Extent>,
    pub(super) gids: Vec<Extent>,
}

impl Maps {
    /// Whether there is nothing but the user's own id.
    pub(super) fn is_single(&self) -> bool {
        self.uids.len() == 1 && self.gids.len() == 1
    }
}

/// The maps of a user, of the texts of both files.
pub(super) fn decide(user: &User, subuid: &str, subgid: &str) -> Result<Maps> {
    let uids = ranges(user, user.uid, "/etc/subuid", subuid)?;
    let gids = ranges(user, user.gid, "/etc/subgid", subgid)?;
    let (with, without) = match (uids.is_empty(), gids.is_empty()) {
        (false, true) => ("/etc/subuid", "/etc/subgid"),
        (true, false) => ("/etc/subgid", "/etc/subuid"),
        _ => {
            return Ok(Maps {
                uids: map(user.uid, &uids),
                gids: map(user.gid, &gids),
            });
        }
    };
    let name = user.name.clone().unwrap_or_else(|| user.uid.to_string());
    Err(Error::invalid(format!(
        "{with} gives ids to user {name}, and {without} does not"
    ))
    .with_hint(format!(
        "give both kinds, as `usermod --add-subuids 100000-165535 --add-subgids 100000-165535 {name}` \
         does, or none"
    )))
}

fn map(own: u32, ranges: &[(u32, u32)]) -> Vec<Extent> {
    let mut map = vec![Extent {
        inside: 0,
        outside: own,
        count: 1,
    }];
    let mut inside = 1;
    for (outside, count) in ranges {
        map.push(Extent {
            inside,
            outside: *outside,
            count: *count,
        });
        inside += count;
    }
    map
}

/// First and number of each range that the file gives to the user.
fn ranges(user: &User, own: u32, file: &str, text: &str) -> Result<Vec<(u32, u32)>> {
    let mut found: Vec<(u32, u32)> = Vec::new();
    let number_of_user = user.uid.to_string();
    // What all ranges have together has to fit beside the user's own id.
    let mut total: u64 = 1;
    for (index, line) in text.lines().enumerate() {
        let Some((owner, rest)) = line.split_once(':') else {
            continue;
        };
        if user.name.as_deref() != Some(owner) && owner != number_of_user {
            continue;
        }
        let wrong = |what: &str| {
            let line = index + 1;
            Error::invalid(format!("cannot use line {line} of {file}: {what}"))
        };
        let (first, count) = rest
            .split_once(':')
            .and_then(|(first, count)| Some((number(first)?, number(count)?)))
            .ok_or_else(|| wrong("it is not USER:FIRST:COUNT"))?;
        if count == 0 {
            return Err(wrong("it gives no id"));
        }
        let end = u64::from(first) + u64::from(count);
        if end > END {
            return Err(wrong("it ends behind the largest id"));
        }
        total += u64::from(count);
        if total > END {
            return Err(wrong("there are more ids than a namespace can have"));
        }
        let overlaps = |(other, size): (u32, u32)| {
            u64::from(first) < u64::from(other) + u64::from(size) && u64::from(other) < end
        };
        if overlaps((0, 1)) {
            return Err(wrong("it gives away root"));
        }
        if overlaps((own, 1)) {
            return Err(wrong(&format!(
                "it has {own} in it, which is the user's own id"
            )));
        }
        if found.iter().any(|other| overlaps(*other)) {
            return Err(wrong("it gives ids that a line before gives as well"));
        }
        found.push((first, count));
        if found.len() == EXTENTS {
            return Err(wrong(&format!(
                "there are more than {} ranges",
                EXTENTS - 1
            )));
        }
    }
    Ok(found)
}

/// Digits only: no sign, no blank.
fn number(text: &str) -> Option<u32> {
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    digits.then(|| text.parse().ok()).flatten()
}

/// The name that /etc/passwd has for an id.
pub(super) fn name_of(uid: u32, passwd: &str) -> Option<String> {
    passwd.lines().find_map(|line| {
        let mut fields = line.split(':');
        let (name, number_of) = (fields.next()?, fields.nth(1)?);
        let is = !name.is_empty() && number(number_of) == Some(uid);
        is.then(|| name.to_owned())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn user() -> User {
        User {
            name: Some("alice".to_owned()),
            uid: 1000,
            gid: 1001,
        }
    }

    fn extents(list: &[(u32, u32, u32)]) -> Vec<Extent> {
        let extent = |(inside, outside, count): &(u32, u32, u32)| Extent {
            inside: *inside,
            outside: *outside,
            count: *count,
        };
        list.iter().map(extent).collect()
    }

    #[test]
    fn own_id_first_and_ranges_behind_it_in_their_order() {
        let text = "bob:1:5\nalice:300000:10\n# alice\nalic:7:7\n1000:200000:65536\nbroken\n";
        let maps = decide(&user(), text, "alice:100000:65536").unwrap();
        assert_eq!(
            maps.uids,
            extents(&[(0, 1000, 1), (1, 300_000, 10), (11, 200_000, 65_536)])
        );
        assert_eq!(maps.gids, extents(&[(0, 1001, 1), (1, 100_000, 65_536)]));
        assert!(!maps.is_single());
        let nothing = decide(&user(), "bob:1:5", "").unwrap();
        assert_eq!(nothing.uids, extents(&[(0, 1000, 1)]));
        assert_eq!(nothing.gids, extents(&[(0, 1001, 1)]));
        assert!(nothing.is_single());
        let nameless = User {
            name: None,
            ..user()
        };
        assert!(
            decide(&nameless, "alice:1:1", "alice:1:1")
                .unwrap()
                .is_single()
        );
        assert!(decide(&nameless, ":2000:1", ":2000:1").unwrap().is_single());
        assert!(
            !decide(&nameless, "1000:9:1", "1000:9:1")
                .unwrap()
                .is_single()
        );
    }

    #[test]
    fn only_one_of_the_files_is_a_mistake() {
        let error = decide(&user(), "alice:5000:10", "").unwrap_err();
        assert!(
            error.to_string().contains("/etc/subgid does not"),
            "{error}"
        );
        let error = decide(&user(), "", "alice:5000:10").unwrap_err();
        assert!(
            error.to_string().contains("/etc/subuid does not"),
            "{error}"
        );
    }

    #[test]
    fn hostile_lines_of_the_user_are_refused() {
        for (line, what) in [
            ("alice:", "not USER"),
            ("alice:1", "not USER"),
            ("alice:1:", "not USER"),
            ("alice::1", "not USER"),
            ("alice:-1:5", "not USER"),
            ("alice:+5:5", "not USER"),
            ("alice: 5:5", "not USER"),
            ("alice:5:5 ", "not USER"),
            ("alice:5:5:5", "not USER"),
            ("alice:0x10:5", "not USER"),
            ("alice:4294967296:1", "not USER"),
            ("alice:5:4294967296", "not USER"),
            ("alice:5:18446744073709551615", "not USER"),
            ("alice:5:0", "no id"),
            ("alice:4294967295:1", "largest"),
            ("alice:4294967294:2", "largest"),
            ("alice:2000:4294967295", "largest"),
            ("alice:0:10", "root"),
            ("alice:1000:1", "own id"),
            ("alice:999:2", "own id"),
            ("alice:1:2000", "own id"),
            ("alice:5000:10\nalice:5009:1", "before"),
            ("alice:5000:10\n1000:4000:2000", "before"),
            ("alice:5000:10\nalice:5000:10", "before"),
        ] {
            let error = decide(&user(), line, "alice:9000:1").unwrap_err();
            let text = error.to_string();
            assert!(
                text.contains(what) && text.contains("/etc/subuid"),
                "{line}: {text}"
            );
            // Of others they are none of our business.
            let others = line.replace("alice", "bob").replace("1000:4", "bob:4");
            assert!(
                decide(&user(), &others, "").unwrap().is_single(),
                "{others}"
            );
        }
        let many: String = (0..400)
            .map(|n| format!("alice:{}:1\n", 5000 + n))
            .collect();
        let error = decide(&user(), &many, "").unwrap_err();
        assert!(error.to_string().contains("339 ranges"), "{error}");
        let most: String = (0..339)
            .map(|n| format!("alice:{}:1\n", 5000 + n))
            .collect();
        assert_eq!(decide(&user(), &most, &most).unwrap().uids.len(), EXTENTS);
        // The largest that there is.
        let last = "alice:4294967294:1";
        assert_eq!(decide(&user(), last, last).unwrap().uids.len(), 2);
    }

    #[test]
    fn names() {
        let passwd = "root:x:0:0::/:\nalice:x:1000:1001::/:\n:x:5:5\nx:y\nb:x:+7:7:\n";
        assert_eq!(name_of(1000, passwd).as_deref(), Some("alice"));
        assert_eq!(name_of(0, passwd).as_deref(), Some("root"));
        for uid in [5, 7, 1001] {
            assert_eq!(name_of(uid, passwd), None);
        }
    }
}
