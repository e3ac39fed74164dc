//! Who a container's program is: `run_as_user` and its kin over the image's user.
//!
//! As containerd: the group is among the supplementary groups too (CVE-2022-36109), and an image's group file
//! counts unless the policy is Strict.

use rcrun_image::accounts::Identity;

use super::IdMap;
use super::container::Place;
use crate::proto::v1;
use crate::{Context, Error, Result};

/// The largest id: `accounts` says why.
const LARGEST: u32 = i32::MAX as u32;
/// Most supplementary groups (NGROUPS_MAX).
const GROUPS: usize = 65_536;

/// An id that was asked for.
fn id(what: &str, number: i64) -> Result<u32> {
    let wrong = || Error::invalid(format!("{what} {number} is no id: use 0 to {LARGEST}"));
    let id = u32::try_from(number).ok().filter(|id| *id <= LARGEST);
    id.ok_or_else(wrong)
}

/// The groups that are asked for.
pub(super) fn groups(asked: &[i64]) -> Result<Vec<u32>> {
    if asked.len() > GROUPS {
        return Err(Error::invalid(format!(
            "more than {GROUPS} supplemental_groups"
        )));
    }
    let one = |number: &i64| id("supplemental_groups:", *number);
    asked.iter().map(one).collect()
}

/// Whether groups of the image's file count.
pub(super) fn merges(policy: i32) -> Result<bool> {
    match v1::SupplementalGroupsPolicy::try_from(policy) {
        Ok(v1::SupplementalGroupsPolicy::Merge) => Ok(true),
        Ok(v1::SupplementalGroupsPolicy::Strict) => Ok(false),
        Err(_) => Err(Error::invalid(format!(
            "supplemental_groups_policy {policy} is not known"
        ))),
    }
}

/// User and group that are asked for by number.
pub(super) fn numbers(
    user: Option<&v1::Int64Value>,
    group: Option<&v1::Int64Value>,
) -> Result<(Option<u32>, Option<u32>)> {
    let one =
        |what, value: Option<&v1::Int64Value>| value.map(|value| id(what, value.value)).transpose();
    Ok((one("run_as_user", user)?, one("run_as_group", group)?))
}

/// Who the program is.
pub(super) fn identity(
    asked: &v1::LinuxContainerSecurityContext,
    map: Option<IdMap>,
    of_image: &str,
    place: &Place<'_>,
) -> Result<Identity> {
    let accounts = place.accounts;
    let (uid, gid) = numbers(asked.run_as_user.as_ref(), asked.run_as_group.as_ref())?;
    let name = asked.run_as_username.as_str();
    let user = match (uid, name) {
        (Some(_), name) if !name.is_empty() => {
            return Err(Error::invalid(
                "run_as_user and run_as_username are both given",
            ));
        }
        (Some(uid), _) => Some(uid.to_string()),
        (None, "") => None,
        // Only a name is looked up; digits would be nobody's.
        (None, name) if name.contains(':') || name.bytes().all(|b| b.is_ascii_digit()) => {
            let text = format!("run_as_username {name:?} is no name: numbers are for run_as_user");
            return Err(Error::invalid(text));
        }
        (None, name) => Some(name.to_owned()),
    };
    if user.is_none() && gid.is_some() {
        return Err(Error::invalid(
            "run_as_group is given without run_as_user or run_as_username",
        ));
    }
    let user = user.as_deref().unwrap_or(of_image);
    let failed = || "cannot tell the user";
    let whole = match gid {
        Some(gid) => format!("{user}:{gid}"),
        None => user.to_owned(),
    };
    let found = accounts.identity(&whole, &[]).context(failed)?;
    let wanted = groups(&asked.supplemental_groups)?;
    let mut additional = match merges(asked.supplemental_groups_policy)? {
        // A group behind the user's colon does not end its memberships.
        true => {
            let alone = user.split_once(':').map_or(user, |(user, _)| user);
            accounts.identity(alone, &[]).context(failed)?.additional
        }
        false => Vec::new(),
    };
    if let Some(map) = map {
        for (what, id) in [("user", found.uid), ("group", found.gid)]
            .into_iter()
            .chain(wanted.iter().map(|gid| ("group", *gid)))
        {
            if !map.has(id) {
                return Err(Error::invalid(format!(
                    "cannot be {what} {id}: the pod's user namespace has ids below {}",
                    map.size
                )));
            }
        }
        // Memberships that an image hands out are not asked for by anybody.
        additional.retain(|gid| map.has(*gid));
    }
    additional.push(found.gid);
    additional.extend(wanted);
    additional.extend(&place.cdi.gids);
    additional.sort_unstable();
    additional.dedup();
    if additional.len() > GROUPS {
        return Err(Error::invalid(format!("more than {GROUPS} groups")));
    }
    Ok(Identity {
        additional,
        ..found
    })
}

#[cfg(test)]
mod tests {
    use rcrun_image::accounts::Accounts;

    use super::*;

    fn accounts() -> Accounts {
        Accounts {
            passwd: b"root:x:0:0::/root:/bin/sh\napp:x:1000:1001::/:/bin/sh\n1234:x:0:0::/:\n"
                .to_vec(),
            group: b"root:x:0:\nwheel:x:10:app\nbig:x:70000:app\nextra:x:5:other\n".to_vec(),
        }
    }

    /// user, group, name, groups, policy, image's user.
    type Case<'a> = (Option<i64>, Option<i64>, &'a str, &'a [i64], i32, &'a str);

    fn found(case: Case<'_>, map: Option<IdMap>) -> Result<String> {
        let (user, group, name, groups, policy, of_image) = case;
        let asked = v1::LinuxContainerSecurityContext {
            run_as_user: user.map(|value| v1::Int64Value { value }),
            run_as_group: group.map(|value| v1::Int64Value { value }),
            run_as_username: name.into(),
            supplemental_groups: groups.to_vec(),
            supplemental_groups_policy: policy,
            ..v1::LinuxContainerSecurityContext::default()
        };
        let accounts = accounts();
        let one = identity(&asked, map, of_image, &Place::new("c", "i", &accounts))?;
        Ok(format!("{}:{} {:?}", one.uid, one.gid, one.additional))
    }

    #[test]
    fn users_and_groups() {
        for (case, expected) in [
            ((None, None, "", &[][..], 0, ""), "0:0 [0]"),
            (
                (None, None, "", &[], 0, "app"),
                "1000:1001 [10, 1001, 70000]",
            ),
            ((None, None, "", &[], 1, "app"), "1000:1001 [1001]"),
            (
                (None, None, "", &[], 0, "app:extra"),
                "1000:5 [5, 10, 70000]",
            ),
            ((None, None, "", &[], 0, "7:8"), "7:8 [8]"),
            (
                (Some(1000), None, "", &[2000], 0, "root"),
                "1000:1001 [10, 1001, 2000, 70000]",
            ),
            (
                (Some(1000), Some(1001), "", &[2000, 3000, 2000], 1, ""),
                "1000:1001 [1001, 2000, 3000]",
            ),
            (
                (Some(0), Some(1001), "", &[2000, 3000], 0, ""),
                "0:1001 [1001, 2000, 3000]",
            ),
            ((Some(5000), None, "", &[], 0, "app"), "5000:0 [0]"),
            (
                (None, Some(9), "app", &[], 0, "root"),
                "1000:9 [9, 10, 70000]",
            ),
        ] {
            assert_eq!(found(case, None).unwrap(), expected, "{case:?}");
        }
    }

    #[test]
    fn requests_that_contradict_themselves() {
        for (case, problem) in [
            ((None, Some(5), "", &[][..], 0, "app"), "run_as_group"),
            ((Some(5), None, "app", &[], 0, ""), "both"),
            ((None, None, "nobody", &[], 0, ""), "no user"),
            ((None, None, "", &[], 0, "nobody"), "no user"),
            (
                (None, None, "app", &[], 2, ""),
                "supplemental_groups_policy",
            ),
            ((None, None, "app", &[-1], 0, ""), "supplemental_groups"),
        ] {
            let message = found(case, None).unwrap_err().chain().to_string();
            assert!(message.contains(problem), "{case:?}: {message}");
        }
        let many = vec![1; GROUPS + 1];
        found((None, None, "", &many, 0, ""), None).unwrap_err();
    }

    /// CVE-2024-40635: numbers that wrap around to root, and names that look like numbers.
    #[test]
    fn cve_2024_40635_numbers_that_are_no_ids() {
        for number in [
            -1,
            2_147_483_648,
            4_294_967_295,
            4_294_967_296,
            i64::MAX,
            i64::MIN,
        ] {
            found((Some(number), None, "", &[], 0, ""), None).unwrap_err();
            found((Some(1), Some(number), "", &[], 0, ""), None).unwrap_err();
            found((Some(1), None, "", &[number], 0, ""), None).unwrap_err();
        }
        for name in ["1234", "1000", "app:0", ":", "4294967296"] {
            found((None, None, name, &[], 0, ""), None).unwrap_err();
        }
        for user in ["4294967296", "1000:4294967296", "-1"] {
            found((None, None, "", &[], 0, user), None).unwrap_err();
        }
    }

    #[test]
    fn ids_that_the_pod_does_not_have() {
        let map = Some(IdMap {
            host: 100_000,
            size: 65_536,
        });
        // The image's group 70000 is left out.
        let app = (None, None, "", &[][..], 0, "app");
        assert_eq!(found(app, map).unwrap(), "1000:1001 [10, 1001]");
        for case in [
            (Some(65_536), None, "", &[][..], 0, ""),
            (Some(1), Some(65_536), "", &[], 0, ""),
            (Some(1), None, "", &[65_536], 0, ""),
            (None, None, "", &[], 0, "70000"),
        ] {
            found(case, map).unwrap_err();
        }
    }
}
