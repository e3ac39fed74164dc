//! What is reported of a container's configuration. Pure.

use super::{Node, process, resources as limits};
use crate::proto::v1;

/// `ContainerStatus.resources`: as they hold.
pub fn resources(asked: &v1::LinuxContainerResources, node: &Node) -> v1::ContainerResources {
    let mut linux = asked.clone();
    linux.memory_swap_limit_in_bytes = limits::swap_limit(asked, node).unwrap_or(0);
    linux
        .hugepage_limits
        .retain(|limit| limits::counts(limit, node));
    let score = limits::oom_score(asked.oom_score_adj, node);
    linux.oom_score_adj = score.map_or(asked.oom_score_adj, i64::from);
    v1::ContainerResources {
        linux: Some(linux),
        windows: None,
    }
}

/// `ContainerStatus.stop_signal`.
pub fn stop_signal(number: i32) -> v1::Signal {
    process::signal_of(number)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_that_hold() {
        let asked = v1::LinuxContainerResources {
            cpu_shares: 2,
            memory_limit_in_bytes: 1 << 26,
            oom_score_adj: -997,
            hugepage_limits: vec![v1::HugepageLimit {
                page_size: "2MB".into(),
                limit: 0,
            }],
            ..v1::LinuxContainerResources::default()
        };
        let bare = resources(&asked, &Node::default()).linux.unwrap();
        assert_eq!(bare.cpu_shares, 2);
        assert_eq!(bare.memory_swap_limit_in_bytes, 0);
        assert!(bare.hugepage_limits.is_empty());
        let node = Node {
            swap: true,
            huge_pages: vec!["2MB".into()],
            least_oom_score: Some(-500),
            ..Node::default()
        };
        let full = resources(&asked, &node).linux.unwrap();
        assert_eq!(full.memory_swap_limit_in_bytes, 1 << 26);
        assert_eq!((full.hugepage_limits.len(), full.oom_score_adj), (1, -500));
    }

    #[test]
    fn signals() {
        assert_eq!(stop_signal(15), v1::Signal::Sigterm);
        assert_eq!(stop_signal(37), v1::Signal::Sigrtminplus3);
    }
}
