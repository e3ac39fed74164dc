//! Which ids a container gets that has a user namespace of its own: `--userns` and the machine -> a map.
//!
//! Root has the ranges of /etc/subuid and /etc/subgid to give. Who is root of a user namespace only has
//! what that has, without its root; those files are about ids outside.

use rcrun_runtime::error::{Context, Error, ErrorKind, Result};

use super::spec::{Extent, Pool, Rootless, Userns, pick};
use crate::rootless;

/// Whose ranges of /etc/subuid root's containers get.
const RANGE_OWNERS: [&str; 3] = ["rcrun", "containers", "root"];

/// The map; empty without a namespace. `taken` tells what other containers have.
pub(super) fn choose(
    wanted: &Userns,
    caller: Option<&Rootless>,
    taken: impl FnOnce() -> Result<Vec<Extent>>,
) -> Result<Vec<Extent>> {
    match (wanted, caller) {
        (Userns::Host, _) => Ok(Vec::new()),
        (Userns::Map(map), None) => Ok(map.clone()),
        (Userns::Map(map), Some(caller)) => within(map, caller).map(|()| map.clone()),
        (Userns::Keep, None) => Err(Error::unsupported(
            "--userns keep-id is for ordinary users: root has the same id without it",
        )),
        (Userns::Keep, Some(caller)) => {
            let owner = (rootless::owner(), rootless::owner_group());
            keep(owner, caller).context(|| "--userns keep-id")
        }
        (Userns::Auto(size), None) => {
            let text = |path: &str| match std::fs::read_to_string(path) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                    Err(error).context(|| format!("cannot read {path}"))
                }
                read => Ok(read.unwrap_or_default()),
            };
            let (uids, gids) = (text("/etc/subuid")?, text("/etc/subgid")?);
            let pools = RANGE_OWNERS.map(|user| Pool::of(user, &uids, &gids));
            let words = format!(
                "give {} more in /etc/subuid and /etc/subgid",
                RANGE_OWNERS.join(" or ")
            );
            pick(*size, &pools, &taken()?, &words).map(|found| vec![found])
        }
        (Userns::Auto(size), Some(caller)) => {
            let pool = Pool {
                uids: without_root(&caller.uids),
                gids: without_root(&caller.gids),
            };
            let words = "the user's lines of /etc/subuid and /etc/subgid are to have more, or ask for fewer \
                         with --userns auto:size=N";
            pick(*size, &[pool], &taken()?, words).map(|found| vec![found])
        }
    }
}

fn without_root(ranges: &[(u32, u32)]) -> Vec<(u32, u32)> {
    let cut = |(first, count): &(u32, u32)| match first {
        0 => (1, count.saturating_sub(1)),
        _ => (*first, *count),
    };
    ranges
        .iter()
        .map(cut)
        .filter(|(_, count)| *count > 0)
        .collect()
}

/// Whether the caller has all these ids.
fn within(map: &[Extent], caller: &Rootless) -> Result<()> {
    for extent in map {
        let has = |ranges: &[(u32, u32)]| {
            ranges.iter().any(|(first, count)| {
                let end = u64::from(extent.outer) + u64::from(extent.size);
                extent.outer >= *first && end <= u64::from(*first) + u64::from(*count)
            })
        };
        if !has(&caller.uids) || !has(&caller.gids) {
            let Extent { inner, outer, size } = extent;
            return Err(Error::invalid(format!(
                "--userns {inner}:{outer}:{size}: you do not have all of these ids"
            ))
            .with_hint(
                "HOST is a number in your user namespace: `rcrun unshare cat /proc/self/uid_map`",
            ));
        }
    }
    Ok(())
}

/// The caller has the same number inside as outside: what is root of the namespace, in which it is 0.
/// All others move by one.
fn keep((uid, gid): (u32, u32), caller: &Rootless) -> Result<Vec<Extent>> {
    if uid != gid {
        return Err(Error::unsupported(format!(
            "user {uid} has group {gid}: the numbers have to be the same"
        )));
    }
    let last = |ranges: &[(u32, u32)]| match ranges {
        [(0, 1), rest @ ..] => {
            // As we make them: everything behind root without a gap.
            rest.iter().try_fold(1_u64, |next, (first, count)| {
                (u64::from(*first) == next).then(|| next + u64::from(*count))
            })
        }
        _ => None,
    };
    let ends = last(&caller.uids).zip(last(&caller.gids));
    let end = ends
        .map(|(one, other)| one.min(other))
        .filter(|end| *end > 1);
    let Some(end) = end.and_then(|end| u32::try_from(end).ok()) else {
        let text = "it takes subordinate ids, since the container needs a root as well";
        return Err(Error::new(ErrorKind::FailedPrecondition, text)
            .with_hint("see docs/rootless.md for how to get them"));
    };
    let extent = |inner, outer, size| Extent { inner, outer, size };
    let below = uid.min(end - 1);
    let mut map = vec![extent(0, 1, below), extent(uid, 0, 1)];
    if uid + 1 < end {
        map.push(extent(uid + 1, uid + 1, end - uid - 1));
    }
    Ok(map)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn caller(ranges: &[(u32, u32)]) -> Rootless {
        Rootless {
            uids: ranges.to_vec(),
            gids: ranges.to_vec(),
            groups: true,
            oom_score: 0,
        }
    }

    fn list(map: &[Extent]) -> Vec<(u32, u32, u32)> {
        map.iter()
            .map(|one| (one.inner, one.outer, one.size))
            .collect()
    }

    #[test]
    fn the_same_number_inside() {
        let many = caller(&[(0, 1), (1, 65_536)]);
        let kept = |user, caller: &Rootless| keep(user, caller).ok().map(|map| list(&map));
        assert_eq!(
            kept((1000, 1000), &many),
            Some(vec![(0, 1, 1000), (1000, 0, 1), (1001, 1001, 64_536)])
        );
        // Behind all that there are.
        assert_eq!(
            kept((100_000, 100_000), &many),
            Some(vec![(0, 1, 65_536), (100_000, 0, 1)])
        );
        assert_eq!(
            kept((65_536, 65_536), &many),
            Some(vec![(0, 1, 65_536), (65_536, 0, 1)])
        );
        assert_eq!(kept((1000, 100), &many), None);
        assert_eq!(kept((1000, 1000), &caller(&[(0, 1)])), None);
        assert_eq!(kept((1000, 1000), &caller(&[(0, 1), (5, 10)])), None);
    }

    #[test]
    fn only_ids_that_the_caller_has() {
        let have = caller(&[(0, 1), (1, 1000)]);
        let map = |(inner, outer, size)| vec![Extent { inner, outer, size }];
        within(&map((0, 1, 1000)), &have).unwrap();
        within(&map((0, 0, 1)), &have).unwrap();
        for wrong in [(0, 0, 2), (0, 1, 1001), (0, 1000, 2), (0, 5000, 1)] {
            within(&map(wrong), &have).unwrap_err();
        }
        let auto = |size, taken: &[Extent]| {
            choose(&Userns::Auto(size), Some(&have), || Ok(taken.to_vec()))
                .map(|map| list(&map))
                .ok()
        };
        assert_eq!(auto(600, &[]), Some(vec![(0, 1, 600)]));
        assert_eq!(auto(600, &map((0, 1, 600))), None);
        assert_eq!(auto(400, &map((0, 1, 600))), Some(vec![(0, 601, 400)]));
    }
}
