//! `rcrun serve --check`: what this node has and lacks for the work of the server.
//!
//! Looking ([`Facts::read`]) and judging ([`judge`]) are apart; judging is pure. Pods will need more than
//! images do, and what they need is asked here already where it is known.

use std::path::{Path, PathBuf};

use rcrun_overlay::store::{Store, VERSION_FILE};
use rcrun_runtime::template::apparmor::{self, Support};

use crate::settings::Settings;

/// What was seen of the machine.
#[derive(Debug, Clone, Default)]
pub struct Facts {
    /// Effective user of the process.
    pub root: bool,
    /// `uname -r`.
    pub kernel: String,
    /// `/proc/filesystems`.
    pub filesystems: String,
    /// `/sys/fs/cgroup/cgroup.controllers`: only with cgroup v2.
    pub controllers: Option<String>,
    /// `/proc/cgroups`: the controllers of v1.
    pub hierarchies: String,
    /// The limit of descriptors of this process.
    pub descriptors: u64,
    /// `/proc/sys/user/max_user_namespaces`.
    pub user_namespaces: u64,
    /// What there is of AppArmor, and whether profiles can be compiled.
    pub apparmor: Support,
    /// See [`Self::apparmor`].
    pub apparmor_parser: bool,
    /// Why the store cannot be used.
    pub store: Option<String>,
    /// Whether exec, attach and port-forward are served over TLS.
    pub tls: bool,
    /// Why certificate and key for that cannot be used.
    pub streaming: Option<String>,
    /// criu, by the settings or in the PATH.
    pub criu: Option<PathBuf>,
}

/// How bad it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It is there.
    Fine,
    /// Something that not everybody wants will not work.
    Note,
    /// Something will not work.
    Lacking,
    /// The server cannot work.
    Missing,
}

/// One line of the report.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// How bad it is.
    pub verdict: Verdict,
    /// What was looked at.
    pub subject: &'static str,
    /// What was seen, and what to do about it.
    pub words: String,
}

/// The oldest kernel: overlay mounts by descriptor, pidfd, clone3.
const OLDEST: (u32, u32) = (5, 10);
/// The oldest one whose overlays take mapped ids, for pods with user namespaces.
const MAPPED: (u32, u32) = (5, 19);
/// Controllers without which limits of pods mean nothing.
const CONTROLLERS: [&str; 3] = ["cpu", "memory", "pids"];
/// Each container needs a few.
const DESCRIPTORS: u64 = 4096;

impl Facts {
    /// Looks at this machine.
    pub fn read(store: &Path, settings: &Settings) -> Self {
        let text = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
        // One that is not there is made when it is needed.
        let made = store.join(VERSION_FILE).exists();
        let opened = made.then(|| Store::open(store).err()).flatten();
        let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
        Self {
            root: rustix::process::geteuid().is_root(),
            kernel: rustix::system::uname()
                .release()
                .to_string_lossy()
                .into_owned(),
            filesystems: text("/proc/filesystems"),
            controllers: std::fs::read_to_string("/sys/fs/cgroup/cgroup.controllers").ok(),
            hierarchies: text("/proc/cgroups"),
            descriptors: limit.current.unwrap_or(u64::MAX),
            user_namespaces: text("/proc/sys/user/max_user_namespaces")
                .trim()
                .parse()
                .unwrap_or(0),
            apparmor: apparmor::support(),
            apparmor_parser: apparmor::parser().is_some(),
            store: opened.map(|error| error.chain().to_string()),
            tls: settings.stream_tls.is_some(),
            streaming: settings.check_stream_tls().err().map(|error| {
                let hint = error.hint().map(|hint| format!("; {hint}"));
                format!("{}{}", error.chain(), hint.unwrap_or_default())
            }),
            criu: crate::checkpoints::criu(settings).ok(),
        }
    }
}

/// One thing that was looked at: what was seen of it, and what to say if it is not good.
struct Look {
    subject: &'static str,
    good: bool,
    otherwise: Verdict,
    seen: String,
    remedy: String,
}

impl Look {
    fn judged(self) -> Finding {
        let (verdict, words) = match self.good {
            true => (Verdict::Fine, self.seen),
            false => (self.otherwise, format!("{}: {}", self.seen, self.remedy)),
        };
        Finding {
            verdict,
            subject: self.subject,
            words,
        }
    }
}

/// Judges a machine, in a fixed order.
pub fn judge(facts: &Facts) -> Vec<Finding> {
    let version = version(&facts.kernel);
    let (cgroups, lacking) = controllers(facts);
    let overlay = |line: &str| line.split_whitespace().last() == Some("overlay");
    let overlay = facts.filesystems.lines().any(overlay);
    let word = |good, word: &str| match good {
        true => word.to_owned(),
        false => format!("not {word}"),
    };
    let look = |subject, good, otherwise, seen: String, remedy: String| Look {
        subject,
        good,
        otherwise,
        seen,
        remedy,
    };
    let users = version >= Some(MAPPED) && facts.user_namespaces > 0;
    use Verdict::{Lacking, Missing};
    let looks = [
        look(
            "user",
            facts.root,
            Missing,
            word(facts.root, "root"),
            "the server needs root's rights".to_owned(),
        ),
        look(
            "kernel",
            version >= Some(OLDEST),
            Missing,
            facts.kernel.clone(),
            format!("{}.{} or later is needed", OLDEST.0, OLDEST.1),
        ),
        look(
            "overlay",
            overlay,
            Missing,
            word(overlay, "there"),
            "load the module overlay".to_owned(),
        ),
        look(
            "cgroups",
            lacking.is_empty(),
            Lacking,
            cgroups.to_owned(),
            format!(
                "no controller for {}, so no such limits",
                lacking.join(", ")
            ),
        ),
        look(
            "user namespaces",
            users,
            Lacking,
            word(users, "for pods"),
            format!(
                "they need Linux {}.{} and user.max_user_namespaces above 0",
                MAPPED.0, MAPPED.1
            ),
        ),
        confinement(facts),
        look(
            "descriptors",
            facts.descriptors >= DESCRIPTORS,
            Lacking,
            facts.descriptors.to_string(),
            "raise LimitNOFILE of the service".to_owned(),
        ),
        look(
            "store",
            facts.store.is_none(),
            Missing,
            word(facts.store.is_none(), "usable"),
            facts.store.clone().unwrap_or_default(),
        ),
        streaming(facts),
        criu(facts),
    ];
    looks.into_iter().map(Look::judged).collect()
}

/// Whether exec, attach and port-forward can be served.
fn streaming(facts: &Facts) -> Look {
    let how = if facts.tls { "over TLS" } else { "without TLS" };
    Look {
        subject: "streaming",
        good: facts.streaming.is_none(),
        otherwise: Verdict::Missing,
        seen: how.to_owned(),
        remedy: facts.streaming.clone().unwrap_or_default(),
    }
}

/// Whether containers get a profile of AppArmor's where that is on.
fn confinement(facts: &Facts) -> Look {
    let (seen, remedy) = match facts.apparmor {
        Support::Off => ("off", None),
        Support::Hidden => (
            "on",
            Some("no profile for containers: mount securityfs at /sys/kernel/security"),
        ),
        Support::On if !facts.apparmor_parser => (
            "on",
            Some("no profile for containers: install apparmor_parser (package apparmor)"),
        ),
        Support::On => (apparmor::NAME, None),
    };
    Look {
        subject: "apparmor",
        good: remedy.is_none(),
        otherwise: Verdict::Lacking,
        seen: seen.to_owned(),
        remedy: remedy.unwrap_or_default().to_owned(),
    }
}

fn criu(facts: &Facts) -> Look {
    let found = facts.criu.as_ref().map(|path| path.display().to_string());
    Look {
        subject: "criu",
        good: found.is_some(),
        otherwise: Verdict::Note,
        seen: found.unwrap_or_else(|| "not there".to_owned()),
        remedy: "containers cannot be saved and restored: install it, or set cri.criu".to_owned(),
    }
}

/// Which cgroups there are, and which controllers they lack.
fn controllers(facts: &Facts) -> (&'static str, Vec<&'static str>) {
    let enabled: Vec<&str> = facts
        .hierarchies
        .lines()
        .filter(|line| line.split_whitespace().nth(3) == Some("1"))
        .filter_map(|line| line.split_whitespace().next())
        .collect();
    let (version, there): (_, Vec<&str>) = match &facts.controllers {
        Some(unified) => ("v2", unified.split_whitespace().collect()),
        None => ("v1", enabled),
    };
    let lacks = |name: &&str| !there.contains(name);
    (version, CONTROLLERS.into_iter().filter(lacks).collect())
}

/// The first two numbers.
fn version(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit());
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn good() -> Facts {
        Facts {
            root: true,
            kernel: "6.18.44-fc".into(),
            filesystems: "nodev\tsysfs\nnodev\toverlay\n\text4\n".into(),
            controllers: None,
            hierarchies: "#subsys_name\thierarchy\tnum_cgroups\tenabled\ncpu\t1\t1\t1\nmemory\t2\t1\t1\npids\t3\t1\t1\n"
                .into(),
            descriptors: 1 << 20,
            user_namespaces: 100,
            apparmor: Support::Off,
            apparmor_parser: false,
            store: None,
            tls: false,
            streaming: None,
            criu: Some("/usr/sbin/criu".into()),
        }
    }

    fn bad(change: impl FnOnce(&mut Facts)) -> Vec<(&'static str, Verdict)> {
        let mut facts = good();
        change(&mut facts);
        let findings = judge(&facts).into_iter();
        findings
            .filter(|finding| finding.verdict != Verdict::Fine)
            .map(|finding| (finding.subject, finding.verdict))
            .collect()
    }

    #[test]
    fn each_lack_is_told() {
        use Verdict::{Lacking, Missing, Note};
        assert_eq!(bad(|_| ()), []);
        assert_eq!(bad(|facts| facts.criu = None), [("criu", Note)]);
        assert_eq!(
            bad(|facts| facts.controllers = Some("cpu io memory pids\n".into())),
            []
        );
        assert_eq!(bad(|facts| facts.root = false), [("user", Missing)]);
        let old = [("kernel", Missing), ("user namespaces", Lacking)];
        assert_eq!(bad(|facts| facts.kernel = "5.4.0".into()), old);
        assert_eq!(
            bad(|facts| facts.kernel = "5.15.0".into()),
            [("user namespaces", Lacking)]
        );
        assert_eq!(bad(|facts| facts.kernel = "odd".into()), old);
        assert_eq!(
            bad(|facts| facts.filesystems = "nodev\toverlayish\n".into()),
            [("overlay", Missing)]
        );
        assert_eq!(
            bad(|facts| facts.controllers = Some("cpu\n".into())),
            [("cgroups", Lacking)]
        );
        assert_eq!(
            bad(|facts| facts.hierarchies =
                facts.hierarchies.replace("pids\t3\t1\t1", "pids\t3\t1\t0")),
            [("cgroups", Lacking)]
        );
        for (support, parser, lacking) in [
            (Support::Off, false, false),
            (Support::Hidden, true, true),
            (Support::On, false, true),
            (Support::On, true, false),
        ] {
            let found = bad(|facts| (facts.apparmor, facts.apparmor_parser) = (support, parser));
            let expected: &[_] = match lacking {
                true => &[("apparmor", Lacking)],
                false => &[],
            };
            assert_eq!(found, expected, "{support:?} {parser}");
        }
        assert_eq!(
            bad(|facts| facts.user_namespaces = 0),
            [("user namespaces", Lacking)]
        );
        assert_eq!(
            bad(|facts| facts.descriptors = 1024),
            [("descriptors", Lacking)]
        );
        assert_eq!(
            bad(|facts| facts.store = Some("no".into())),
            [("store", Missing)]
        );
        assert_eq!(
            bad(|facts| facts.streaming = Some("no".into())),
            [("streaming", Missing)]
        );
    }
}
