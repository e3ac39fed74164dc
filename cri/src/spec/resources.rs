//! Limits: `LinuxContainerResources` -> `linux.resources`, for a new container and for an update.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use super::Node;
use crate::proto::v1;
use crate::{Error, Result};

/// Most entries of `hugepage_limits` and of `unified`.
const MOST: usize = 256;
/// The longest value of `unified`, and list of CPUs.
const LONGEST: usize = 4096;
/// Scores of proc_pid_oom_score_adj(5).
const SCORES: std::ops::RangeInclusive<i64> = -1000..=1000;

/// `linux.resources`, without devices.
pub fn resources(asked: &v1::LinuxContainerResources, node: &Node) -> Result<Value> {
    let mut all = Map::new();
    let mut insert = |name: &str, part: Map<String, Value>| {
        if !part.is_empty() {
            all.insert(name.into(), Value::Object(part));
        }
    };
    insert("cpu", cpu(asked)?);
    insert("memory", memory(asked, node)?);
    insert("unified", unified(&asked.unified, node)?);
    let pages = huge_pages(&asked.hugepage_limits, node)?;
    if !pages.is_empty() {
        all.insert("hugepageLimits".into(), Value::Array(pages));
    }
    Ok(Value::Object(all))
}

fn cpu(asked: &v1::LinuxContainerResources) -> Result<Map<String, Value>> {
    let mut cpu = Map::new();
    let refused = |what: &str, value: i64| {
        Error::invalid(format!("resources.{what}: {value} is less than nothing"))
    };
    for (name, what, value, least) in [
        ("period", "cpu_period", asked.cpu_period, 0),
        // -1: no limit.
        ("quota", "cpu_quota", asked.cpu_quota, -1),
        ("shares", "cpu_shares", asked.cpu_shares, 0),
    ] {
        match value {
            0 => {}
            value if value < least => return Err(refused(what, value)),
            value => _ = cpu.insert(name.into(), json!(value)),
        }
    }
    for (name, what, list) in [
        ("cpus", "cpuset_cpus", &asked.cpuset_cpus),
        ("mems", "cpuset_mems", &asked.cpuset_mems),
    ] {
        let digits = |text: &str| {
            (1..=6).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_digit())
        };
        let one = |part: &str| match part.split_once('-') {
            None => digits(part),
            Some((first, last)) => digits(first) && digits(last),
        };
        match list.as_str() {
            "" => {}
            list if list.len() <= LONGEST && list.split(',').all(one) => {
                cpu.insert(name.into(), json!(list));
            }
            list => {
                return Err(Error::invalid(format!(
                    "resources.{what}: {list:?} is not like 0-3,7"
                )));
            }
        }
    }
    Ok(cpu)
}

fn memory(asked: &v1::LinuxContainerResources, node: &Node) -> Result<Map<String, Value>> {
    let mut memory = Map::new();
    let (limit, swap) = (
        asked.memory_limit_in_bytes,
        asked.memory_swap_limit_in_bytes,
    );
    let refused = |why: &str| Error::invalid(format!("resources: {why}"));
    if limit < 0 {
        return Err(refused("memory_limit_in_bytes is less than nothing"));
    }
    match swap {
        0 | -1 => {}
        swap if swap < 0 => return Err(refused("memory_swap_limit_in_bytes is less than nothing")),
        _ if limit == 0 => {
            return Err(refused(
                "memory_swap_limit_in_bytes is of memory and swap together, so memory_limit_in_bytes is needed",
            ));
        }
        swap if swap < limit => {
            return Err(refused(
                "memory_swap_limit_in_bytes is less than memory_limit_in_bytes, which it includes",
            ));
        }
        _ => {}
    }
    if limit != 0 {
        memory.insert("limit".into(), json!(limit));
    }
    if let Some(swap) = swap_limit(asked, node) {
        memory.insert("swap".into(), json!(swap));
    }
    Ok(memory)
}

/// Memory and swap together. A limit of memory alone means no swap, as for containerd.
pub(super) fn swap_limit(asked: &v1::LinuxContainerResources, node: &Node) -> Option<i64> {
    let or_memory = match asked.memory_swap_limit_in_bytes {
        0 => asked.memory_limit_in_bytes,
        swap => swap,
    };
    (node.swap && or_memory != 0).then_some(or_memory)
}

/// Kubelets send a limit of 0 for each size, whether or not there is a controller.
pub(super) fn counts(limit: &v1::HugepageLimit, node: &Node) -> bool {
    node.huge_pages.contains(&limit.page_size)
}

fn huge_pages(limits: &[v1::HugepageLimit], node: &Node) -> Result<Vec<Value>> {
    if limits.len() > MOST {
        return Err(Error::invalid(format!("more than {MOST} hugepage_limits")));
    }
    let mut all = Vec::new();
    for limit in limits {
        let size = limit.page_size.as_str();
        let number = size
            .strip_suffix(['B'])
            .and_then(|size| size.strip_suffix(['K', 'M', 'G']));
        let is_size = number.is_some_and(|number| {
            (1..=9).contains(&number.len()) && number.bytes().all(|byte| byte.is_ascii_digit())
        });
        match (is_size, counts(limit, node), limit.limit) {
            (false, ..) => {
                let text = format!("hugepage_limits: {size:?} is not like 2MB");
                return Err(Error::invalid(text));
            }
            (_, true, bytes) => all.push(json!({"pageSize": size, "limit": bytes})),
            (_, false, 0) => {}
            (_, false, bytes) => {
                return Err(Error::unsupported(format!(
                    "hugepage_limits: cannot limit pages of {size} to {bytes} bytes: no controller has that size here"
                )));
            }
        }
    }
    Ok(all)
}

/// Files of cgroup v2. A name is one file of the container's own cgroup (CVE class A12: no way out).
fn unified(files: &BTreeMap<String, String>, node: &Node) -> Result<Map<String, Value>> {
    if files.len() > MOST {
        return Err(Error::invalid(format!("more than {MOST} files in unified")));
    }
    if !files.is_empty() && !node.cgroup2 {
        return Err(Error::unsupported(
            "resources.unified: is for cgroup v2, which this node does not have",
        ));
    }
    let mut all = Map::new();
    for (name, value) in files {
        let may = |byte: u8| byte.is_ascii_alphanumeric() || b"._".contains(&byte);
        let file = name.bytes().all(may)
            && name.split('.').count() > 1
            && name.split('.').all(|part| !part.is_empty());
        if !file || name.starts_with("cgroup.") {
            return Err(Error::invalid(format!(
                "resources.unified: {name:?} is no controller's file"
            )));
        }
        if value.len() > LONGEST || value.contains('\0') {
            return Err(Error::invalid(format!(
                "resources.unified[{name:?}]: {value:?} is no value"
            )));
        }
        all.insert(name.clone(), json!(value));
    }
    Ok(all)
}

/// `process.oomScoreAdj`: never less than the server may give.
pub(super) fn oom_score(asked: i64, node: &Node) -> Result<i32> {
    let score = i32::try_from(asked)
        .ok()
        .filter(|_| SCORES.contains(&asked));
    let score =
        score.ok_or_else(|| Error::invalid(format!("oom_score_adj {asked}: use -1000 to 1000")))?;
    Ok(node.least_oom_score.map_or(score, |least| score.max(least)))
}

/// What holds after an update: what the update leaves open (0, empty) stays, and the OOM score, which an
/// update cannot change. A new limit of memory without one of swap brings that along.
pub fn updated(
    old: &v1::LinuxContainerResources,
    new: &v1::LinuxContainerResources,
) -> v1::LinuxContainerResources {
    let number = |old: i64, new: i64| if new == 0 { old } else { new };
    let text = |old: &str, new: &str| if new.is_empty() { old } else { new }.to_owned();
    let of = |asked: &v1::LinuxContainerResources| {
        let limits = asked.hugepage_limits.clone().into_iter();
        limits
            .map(|limit| (limit.page_size.clone(), limit))
            .collect::<BTreeMap<_, _>>()
    };
    let mut pages = of(old);
    pages.extend(of(new));
    let mut unified = old.unified.clone();
    unified.extend(new.unified.clone());
    v1::LinuxContainerResources {
        cpu_period: number(old.cpu_period, new.cpu_period),
        cpu_quota: number(old.cpu_quota, new.cpu_quota),
        cpu_shares: number(old.cpu_shares, new.cpu_shares),
        memory_limit_in_bytes: number(old.memory_limit_in_bytes, new.memory_limit_in_bytes),
        oom_score_adj: old.oom_score_adj,
        cpuset_cpus: text(&old.cpuset_cpus, &new.cpuset_cpus),
        cpuset_mems: text(&old.cpuset_mems, &new.cpuset_mems),
        hugepage_limits: pages.into_values().collect(),
        unified,
        memory_swap_limit_in_bytes: match new.memory_limit_in_bytes {
            0 => number(
                old.memory_swap_limit_in_bytes,
                new.memory_swap_limit_in_bytes,
            ),
            _ => new.memory_swap_limit_in_bytes,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node() -> Node {
        Node {
            swap: true,
            cgroup2: true,
            huge_pages: vec!["2MB".into()],
            ..Node::default()
        }
    }

    fn page(size: &str, limit: u64) -> v1::HugepageLimit {
        v1::HugepageLimit {
            page_size: size.into(),
            limit,
        }
    }

    fn base() -> v1::LinuxContainerResources {
        v1::LinuxContainerResources {
            cpu_period: 100_000,
            cpu_quota: 20_000,
            cpu_shares: 51,
            memory_limit_in_bytes: 1 << 26,
            memory_swap_limit_in_bytes: 1 << 27,
            oom_score_adj: 999,
            hugepage_limits: vec![page("2MB", 0), page("1GB", 0)],
            ..v1::LinuxContainerResources::default()
        }
    }

    #[test]
    fn limits() {
        let nothing = v1::LinuxContainerResources::default();
        assert_eq!(resources(&nothing, &node()).unwrap(), json!({}));
        let found = resources(&base(), &node()).unwrap();
        let cpu = json!({"period": 100_000, "quota": 20_000, "shares": 51});
        let memory = json!({"limit": 1 << 26, "swap": 1 << 27});
        let pages = json!([{"pageSize": "2MB", "limit": 0}]);
        assert_eq!(
            found,
            json!({"cpu": cpu, "memory": memory, "hugepageLimits": pages})
        );
        // A node without swap accounting and controllers for pages.
        let found = resources(&base(), &Node::default()).unwrap();
        assert_eq!(found, json!({"cpu": cpu, "memory": {"limit": 1 << 26}}));
        let more = v1::LinuxContainerResources {
            cpu_quota: -1,
            memory_swap_limit_in_bytes: 0,
            cpuset_cpus: "0-1,3".into(),
            cpuset_mems: "0".into(),
            unified: [("memory.high".to_owned(), "1000".to_owned())].into(),
            ..base()
        };
        let found = resources(&more, &node()).unwrap();
        assert_eq!(found["cpu"]["quota"], -1);
        assert_eq!(found["cpu"]["cpus"], "0-1,3");
        assert_eq!(found["memory"]["swap"], 1 << 26);
        assert_eq!(found["unified"]["memory.high"], "1000");
    }

    #[test]
    fn limits_that_are_none() {
        type Change = fn(&mut v1::LinuxContainerResources);
        let cases: [(Change, &str); 13] = [
            (|r| r.cpu_period = -1, "cpu_period"),
            (|r| r.cpu_quota = -2, "cpu_quota"),
            (|r| r.cpu_shares = i64::MIN, "cpu_shares"),
            (|r| r.memory_limit_in_bytes = -1, "memory_limit"),
            (|r| r.memory_swap_limit_in_bytes = -2, "memory_swap"),
            (|r| r.memory_swap_limit_in_bytes = 1, "includes"),
            (|r| r.memory_limit_in_bytes = 0, "is needed"),
            (|r| r.cpuset_cpus = "0-".into(), "cpuset_cpus"),
            (|r| r.cpuset_mems = "0\n1".into(), "cpuset_mems"),
            (|r| r.hugepage_limits[1].limit = 1, "1GB"),
            (
                |r| r.hugepage_limits[1].page_size = "../x".into(),
                "not like 2MB",
            ),
            (
                |r| r.hugepage_limits = vec![page("2MB", 0); MOST + 1],
                "more than",
            ),
            (
                |r| r.cpuset_cpus = "0,".repeat(LONGEST) + "0",
                "cpuset_cpus",
            ),
        ];
        for (change, problem) in cases {
            let mut asked = base();
            change(&mut asked);
            let message = resources(&asked, &node()).unwrap_err().to_string();
            assert!(message.contains(problem), "{problem}: {message}");
        }
    }

    /// Class of CVE-2022-0492: a file's name that leads out of the container's cgroup, or into its membership.
    #[test]
    fn cve_2022_0492_unified_names_that_lead_elsewhere() {
        for name in [
            "../memory.max",
            "memory.max/../../x",
            "/memory.max",
            "memory",
            ".",
            "..",
            "a..b",
            "memory.",
            "",
            "cgroup.procs",
            "cgroup.subtree_control",
            "memory.max\n",
            "release agent.x",
        ] {
            let files = BTreeMap::from([(name.to_owned(), "1".to_owned())]);
            assert!(unified(&files, &node()).is_err(), "{name:?}");
        }
        let fine = BTreeMap::from([("memory.max".to_owned(), "1".to_owned())]);
        unified(&fine, &node()).unwrap();
        unified(&fine, &Node::default()).unwrap_err();
    }

    #[test]
    fn scores() {
        let own = Node {
            least_oom_score: Some(-500),
            ..Node::default()
        };
        for (asked, any, least) in [(-997, -997, -500), (0, 0, 0), (1000, 1000, 1000)] {
            assert_eq!(oom_score(asked, &Node::default()).unwrap(), any);
            assert_eq!(oom_score(asked, &own).unwrap(), least);
        }
        for asked in [-1001, 1001, i64::MAX] {
            oom_score(asked, &own).unwrap_err();
        }
    }

    #[test]
    fn updates() {
        let old = base();
        let nothing = v1::LinuxContainerResources::default();
        let same = updated(&old, &nothing);
        assert_eq!(
            same.memory_swap_limit_in_bytes,
            old.memory_swap_limit_in_bytes
        );
        assert_eq!(
            resources(&same, &node()).unwrap(),
            resources(&old, &node()).unwrap()
        );
        let new = v1::LinuxContainerResources {
            cpu_quota: 50_000,
            memory_limit_in_bytes: 1 << 28,
            oom_score_adj: -5,
            hugepage_limits: vec![page("2MB", 4 << 20), page("64KB", 0)],
            ..nothing.clone()
        };
        let found = updated(&old, &new);
        assert_eq!((found.cpu_period, found.cpu_quota), (100_000, 50_000));
        assert_eq!(found.oom_score_adj, 999);
        assert_eq!(found.memory_swap_limit_in_bytes, 0);
        assert_eq!(swap_limit(&found, &node()), Some(1 << 28));
        let pages = found.hugepage_limits.iter();
        let pages: Vec<_> = pages
            .map(|page| (page.page_size.as_str(), page.limit))
            .collect();
        assert_eq!(pages, [("1GB", 0), ("2MB", 4 << 20), ("64KB", 0)]);
    }
}
