//! `--userns`: which user ids of the host a container's are.

use rcrun_runtime::error::{Error, ErrorKind, Result};

/// Ids of a container that gets a range of its own.
const SIZE: u32 = 65_536;
/// How many ranges a map can have: more than the kernel takes (340).
const EXTENTS: usize = 340;

/// What was asked for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) enum Userns {
    /// No namespace of its own.
    #[default]
    Host,
    /// A range that no other container has.
    Auto(u32),
    /// An ordinary user's own id, the same inside as outside.
    Keep,
    /// These ids.
    Map(Vec<Extent>),
}

/// A range of ids.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub(crate) struct Extent {
    /// The first one in the container.
    pub(crate) inner: u32,
    /// The first one of the host.
    pub(crate) outer: u32,
    /// How many.
    pub(crate) size: u32,
}

/// `host`, `keep-id`, `auto[:size=N]`, or `CONTAINER:HOST:SIZE[,...]`.
pub(crate) fn userns(text: &str) -> Result<Userns> {
    let wrong = || {
        Error::invalid(format!(
            "{text:?} is none of host, keep-id, auto, auto:size=N, CONTAINER:HOST:SIZE"
        ))
    };
    if text == "host" {
        return Ok(Userns::Host);
    }
    if text == "keep-id" {
        return Ok(Userns::Keep);
    }
    if text == "auto" {
        return Ok(Userns::Auto(SIZE));
    }
    if let Some(options) = text.strip_prefix("auto:") {
        let size = options.strip_prefix("size=").ok_or_else(wrong)?;
        let size = size.parse().ok().filter(|size| *size > 0);
        return Ok(Userns::Auto(size.ok_or_else(wrong)?));
    }
    let mut map = Vec::new();
    for part in text.split(',') {
        let [inner, outer, size] = part.split(':').collect::<Vec<_>>()[..] else {
            return Err(wrong());
        };
        let number = |text: &str| text.parse::<u32>().map_err(|_| wrong());
        let (inner, outer, size) = (number(inner)?, number(outer)?, number(size)?);
        let fits = |first: u32| first.checked_add(size).is_some();
        if size == 0 || !fits(inner) || !fits(outer) {
            return Err(wrong());
        }
        map.push(Extent { inner, outer, size });
    }
    if map.len() > EXTENTS {
        return Err(Error::invalid(format!(
            "there are more than {EXTENTS} ranges"
        )));
    }
    if !map.iter().any(|extent| extent.inner == 0) {
        return Err(Error::invalid(format!(
            "{text:?} maps no root: a container needs an id 0"
        )));
    }
    Ok(Userns::Map(map))
}

/// Ids that containers may be given: first ones, and how many.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Pool {
    pub(crate) uids: Vec<(u32, u32)>,
    pub(crate) gids: Vec<(u32, u32)>,
}

impl Pool {
    /// What subuid(5) and subgid(5) give to a user.
    pub(crate) fn of(user: &str, subuid: &str, subgid: &str) -> Self {
        Self {
            uids: ranges(subuid, user),
            gids: ranges(subgid, user),
        }
    }
}

/// A free range for a container: of one of these, in this order, that no other container has. `remedy`
/// says how there could be more.
pub(crate) fn pick(size: u32, pools: &[Pool], taken: &[Extent], remedy: &str) -> Result<Extent> {
    for Pool { uids, gids } in pools {
        for (first, count) in uids {
            // The same numbers have to be groups as well.
            let (first, count) = (*first, *count);
            let end = u64::from(first) + u64::from(count);
            let mut next = u64::from(first);
            while next + u64::from(size) <= end {
                let Ok(outer) = u32::try_from(next) else {
                    break;
                };
                let candidate = Extent {
                    inner: 0,
                    outer,
                    size,
                };
                let group = gids.iter().any(|(first, count)| {
                    outer >= *first
                        && next + u64::from(size) <= u64::from(*first) + u64::from(*count)
                });
                let overlap = taken.iter().find(|other| overlaps(candidate, **other));
                match overlap {
                    None if group => return Ok(candidate),
                    None => next += u64::from(size),
                    Some(other) => next = u64::from(other.outer) + u64::from(other.size),
                }
            }
        }
    }
    let text = format!("cannot find {size} free user ids");
    let hint = format!("{remedy}, or say which with --userns 0:HOST:{size}");
    Err(Error::new(ErrorKind::Exhausted, text).with_hint(hint))
}

fn overlaps(one: Extent, other: Extent) -> bool {
    let end = |extent: Extent| u64::from(extent.outer) + u64::from(extent.size);
    u64::from(one.outer) < end(other) && u64::from(other.outer) < end(one)
}

fn ranges(text: &str, user: &str) -> Vec<(u32, u32)> {
    let line = |line: &str| {
        let [name, first, count] = line.split(':').collect::<Vec<_>>()[..] else {
            return None;
        };
        (name == user).then_some((first.parse().ok()?, count.trim_end().parse().ok()?))
    };
    text.lines().filter_map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modes() {
        let one = Extent {
            inner: 0,
            outer: 100_000,
            size: 65_536,
        };
        for (text, expected) in [
            ("host", Some(Userns::Host)),
            ("auto", Some(Userns::Auto(65_536))),
            ("auto:size=1000", Some(Userns::Auto(1000))),
            ("0:100000:65536", Some(Userns::Map(vec![one]))),
            ("", None),
            ("auto:", None),
            ("auto:size=0", None),
            ("auto:uidmapping=0:1:2", None),
            ("keep-id", Some(Userns::Keep)),
            ("keep-id:uid=1", None),
            ("1:100000:65536", None),
            ("0:100000", None),
            ("0:4294967295:2", None),
            ("0:1:0", None),
        ] {
            assert_eq!(userns(text).ok(), expected, "{text}");
        }
        let many = vec!["0:0:1"; 341].join(",");
        userns(&many).unwrap_err();
    }

    #[test]
    fn free_ranges() {
        let ids = "other:1:2\nroot:100000:131072\nbroken\nroot:x:y\ncontainers:500000:1000\n";
        let at = |size, taken: &[u32]| {
            let extent = |outer: &u32| Extent {
                inner: 0,
                outer: *outer,
                size: 65_536,
            };
            let taken: Vec<_> = taken.iter().map(extent).collect();
            let pools = ["containers", "root"].map(|user| Pool::of(user, ids, ids));
            pick(size, &pools, &taken, "").ok().map(|found| found.outer)
        };
        assert_eq!(at(1000, &[]), Some(500_000));
        assert_eq!(at(65_536, &[]), Some(100_000));
        assert_eq!(at(65_536, &[100_000]), Some(165_536));
        assert_eq!(at(65_536, &[165_536]), Some(100_000));
        assert_eq!(at(65_536, &[100_000, 165_536]), None);
        assert_eq!(at(65_536, &[130_000]), None);
        assert_eq!(at(200_000, &[]), None);
        // The groups are somebody else's.
        let error = pick(10, &[Pool::of("root", ids, "root:1:5\n")], &[], "do it").unwrap_err();
        assert_eq!(
            error.hint(),
            Some("do it, or say which with --userns 0:HOST:10")
        );
    }
}
