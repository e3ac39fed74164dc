//! Limits between the two interfaces. Pure.
//!
//! A container's limits are those that the kubelet asked for, which it is told of, and over them what plugins want.
//! What the CRI has no word for (reservations, processes) is in the container's cgroup and its configuration alone.

use rcrun_nri::proto::v1alpha1::{LinuxCpu, LinuxMemory, LinuxResources};
use serde_json::Value;

use crate::Result;
use crate::proto::v1 as cri;
use crate::spec::{Node, resources};

/// What a request asks for, as plugins see it.
pub(super) fn seen(asked: &cri::LinuxContainerResources, node: &Node) -> Result<LinuxResources> {
    let document = resources::resources(asked, node)?;
    Ok(rcrun_nri::describe::resources(&document))
}

/// As much of a plugin's limits as the CRI has words for.
pub(super) fn wanted(limits: &LinuxResources) -> cri::LinuxContainerResources {
    let number = |value: Option<u64>| value.and_then(|value| value.try_into().ok()).unwrap_or(0);
    let cpu = limits.cpu.clone().unwrap_or_default();
    let memory = limits.memory.unwrap_or_default();
    let pages = limits.hugepage_limits.iter();
    cri::LinuxContainerResources {
        cpu_period: number(cpu.period.map(|period| period.value)),
        cpu_quota: cpu.quota.map_or(0, |quota| quota.value),
        cpu_shares: number(cpu.shares.map(|shares| shares.value)),
        memory_limit_in_bytes: memory.limit.map_or(0, |limit| limit.value),
        memory_swap_limit_in_bytes: memory.swap.map_or(0, |swap| swap.value),
        cpuset_cpus: cpu.cpus,
        cpuset_mems: cpu.mems,
        hugepage_limits: pages
            .map(|limit| cri::HugepageLimit {
                page_size: limit.page_size.clone(),
                limit: limit.limit,
            })
            .collect(),
        unified: limits.unified.clone(),
        oom_score_adj: 0,
    }
}

/// What plugins changed of what they were asked about.
pub(super) fn changed(asked: &LinuxResources, answered: &LinuxResources) -> LinuxResources {
    fn new<T: PartialEq + Clone>(asked: &Option<T>, answered: &Option<T>) -> Option<T> {
        answered.clone().filter(|_| asked != answered)
    }
    fn text(asked: &str, answered: &str) -> String {
        if asked == answered { "" } else { answered }.to_owned()
    }
    let (cpu, memory) = (
        asked.cpu.clone().unwrap_or_default(),
        asked.memory.unwrap_or_default(),
    );
    LinuxResources {
        cpu: answered.cpu.as_ref().map(|answered| LinuxCpu {
            shares: new(&cpu.shares, &answered.shares),
            quota: new(&cpu.quota, &answered.quota),
            period: new(&cpu.period, &answered.period),
            realtime_runtime: new(&cpu.realtime_runtime, &answered.realtime_runtime),
            realtime_period: new(&cpu.realtime_period, &answered.realtime_period),
            cpus: text(&cpu.cpus, &answered.cpus),
            mems: text(&cpu.mems, &answered.mems),
        }),
        memory: answered.memory.as_ref().map(|answered| LinuxMemory {
            limit: new(&memory.limit, &answered.limit),
            reservation: new(&memory.reservation, &answered.reservation),
            swap: new(&memory.swap, &answered.swap),
            kernel: new(&memory.kernel, &answered.kernel),
            kernel_tcp: new(&memory.kernel_tcp, &answered.kernel_tcp),
            swappiness: new(&memory.swappiness, &answered.swappiness),
            disable_oom_killer: new(&memory.disable_oom_killer, &answered.disable_oom_killer),
            use_hierarchy: new(&memory.use_hierarchy, &answered.use_hierarchy),
        }),
        hugepage_limits: rest(&asked.hugepage_limits, &answered.hugepage_limits),
        blockio_class: new(&asked.blockio_class, &answered.blockio_class),
        rdt_class: new(&asked.rdt_class, &answered.rdt_class),
        unified: answered
            .unified
            .iter()
            .filter(|(name, value)| asked.unified.get(*name) != Some(value))
            .map(|(name, value)| (name.clone(), value.clone()))
            .collect(),
        devices: rest(&asked.devices, &answered.devices),
        pids: new(&asked.pids, &answered.pids),
    }
}

fn rest<T: PartialEq + Clone>(asked: &[T], answered: &[T]) -> Vec<T> {
    let new = answered.iter().filter(|one| !asked.contains(one));
    new.cloned().collect()
}

/// What stays of plugins' limits when a request sets some anew.
pub(super) fn left(
    adjusted: &cri::LinuxContainerResources,
    asked: &cri::LinuxContainerResources,
) -> cri::LinuxContainerResources {
    let number = |old: i64, asked: i64| if asked == 0 { old } else { 0 };
    let text = |old: &str, asked: &str| if asked.is_empty() { old } else { "" }.to_owned();
    let mut left = adjusted.clone();
    left.cpu_period = number(left.cpu_period, asked.cpu_period);
    left.cpu_quota = number(left.cpu_quota, asked.cpu_quota);
    left.cpu_shares = number(left.cpu_shares, asked.cpu_shares);
    left.cpuset_cpus = text(&left.cpuset_cpus, &asked.cpuset_cpus);
    left.cpuset_mems = text(&left.cpuset_mems, &asked.cpuset_mems);
    // Swap is counted with memory.
    if asked.memory_limit_in_bytes != 0 || asked.memory_swap_limit_in_bytes != 0 {
        (left.memory_limit_in_bytes, left.memory_swap_limit_in_bytes) = (0, 0);
    }
    left.hugepage_limits.retain(|limit| {
        let same = |asked: &cri::HugepageLimit| asked.page_size == limit.page_size;
        !asked.hugepage_limits.iter().any(same)
    });
    left.unified
        .retain(|name, _| !asked.unified.contains_key(name));
    left
}

/// What a container's limits become.
pub(crate) struct Change {
    /// For the kubelet.
    pub(crate) asked: cri::LinuxContainerResources,
    /// What plugins want beside them.
    pub(crate) adjusted: cri::LinuxContainerResources,
    /// `linux.resources`, for the runtime.
    pub(crate) document: Value,
}

/// From what holds, with what is asked for now (or nothing), and what plugins want beside it.
pub(crate) fn change(
    old: &cri::LinuxContainerResources,
    adjusted: &cri::LinuxContainerResources,
    asked: &cri::LinuxContainerResources,
    plugins: Option<&LinuxResources>,
    node: &Node,
) -> Result<Change> {
    let asked_now = resources::updated(old, asked);
    let mut adjusted = left(adjusted, asked);
    if let Some(plugins) = plugins {
        adjusted = resources::updated(&adjusted, &wanted(plugins));
    }
    let all = resources::updated(&asked_now, &adjusted);
    let mut spec = serde_json::json!({"linux": {"resources": resources::resources(&all, node)?}});
    if let Some(plugins) = plugins {
        rcrun_nri::adjust::apply_resources(&mut spec, plugins)?;
    }
    Ok(Change {
        asked: asked_now,
        adjusted,
        document: spec["linux"]["resources"].take(),
    })
}

#[cfg(test)]
mod tests {
    use rcrun_nri::proto::v1alpha1::{LinuxPids, OptionalInt64, OptionalUInt64};
    use serde_json::json;

    use super::*;

    fn node() -> Node {
        Node {
            swap: true,
            cgroup2: true,
            ..Node::default()
        }
    }

    fn asked(shares: i64, memory: i64, cpus: &str) -> cri::LinuxContainerResources {
        cri::LinuxContainerResources {
            cpu_shares: shares,
            memory_limit_in_bytes: memory,
            cpuset_cpus: cpus.into(),
            ..Default::default()
        }
    }

    fn plugins(shares: Option<u64>, memory: Option<i64>, pids: Option<i64>) -> LinuxResources {
        LinuxResources {
            cpu: shares.map(|value| LinuxCpu {
                shares: Some(OptionalUInt64 { value }),
                ..Default::default()
            }),
            memory: memory.map(|value| LinuxMemory {
                limit: Some(OptionalInt64 { value }),
                ..Default::default()
            }),
            pids: pids.map(|limit| LinuxPids { limit }),
            ..Default::default()
        }
    }

    #[test]
    fn what_plugins_want_holds_until_the_kubelet_sets_it_anew() {
        let none = Default::default();
        let old = asked(100, 1 << 20, "0-1");
        let wishes = plugins(Some(7), None, Some(5));
        let first = change(&old, &none, &none, Some(&wishes), &node()).unwrap();
        assert_eq!(first.asked, old, "the kubelet is told what it asked for");
        assert_eq!(first.adjusted, asked(7, 0, ""));
        assert_eq!(first.document["cpu"], json!({"shares": 7, "cpus": "0-1"}));
        assert_eq!(first.document["pids"], json!({"limit": 5}));
        assert_eq!(first.document["memory"]["limit"], 1 << 20);
        // Another limit: the plugin's stays.
        let new = asked(0, 2 << 20, "");
        let second = change(&first.asked, &first.adjusted, &new, None, &node()).unwrap();
        assert_eq!(second.asked, asked(100, 2 << 20, "0-1"));
        assert_eq!(second.document["cpu"]["shares"], 7);
        assert_eq!(second.document["memory"]["limit"], 2 << 20);
        // The same limit: the kubelet's, unless plugins want it otherwise again.
        let new = asked(300, 0, "");
        let third = change(&second.asked, &second.adjusted, &new, None, &node()).unwrap();
        assert_eq!(third.document["cpu"]["shares"], 300);
        assert_eq!(third.adjusted, none);
        let seen = seen(&new, &node()).unwrap();
        let again = changed(&seen, &plugins(Some(8), None, None));
        let fourth = change(&third.asked, &third.adjusted, &new, Some(&again), &node()).unwrap();
        assert_eq!(fourth.asked.cpu_shares, 300);
        assert_eq!(fourth.document["cpu"]["shares"], 8);
    }

    #[test]
    fn what_plugins_leave_as_it_is_is_no_wish() {
        let mut asked = asked(100, 1 << 20, "0");
        asked.unified = [("memory.high".to_owned(), "1".to_owned())].into();
        let seen = seen(&asked, &node()).unwrap();
        assert_eq!(wanted(&changed(&seen, &seen)), Default::default());
        let mut answered = seen.clone();
        answered.unified.insert("cpu.idle".into(), "1".into());
        answered.memory = plugins(None, Some(5), None).memory;
        let found = wanted(&changed(&seen, &answered));
        assert_eq!(found.memory_limit_in_bytes, 5);
        assert_eq!(found.cpu_shares, 0);
        assert_eq!(found.unified.len(), 1);
    }

    #[test]
    fn limits_that_cannot_be_are_refused() {
        let none = Default::default();
        for wishes in [plugins(None, Some(-5), None), {
            let mut wrong = plugins(None, None, None);
            wrong.unified = [("../../x".to_owned(), "1".to_owned())].into();
            wrong
        }] {
            assert!(change(&none, &none, &none, Some(&wishes), &node()).is_err());
        }
    }
}
