//! The verbs of an OCI runtime, flag for flag those of runc.

mod checkpoint;
mod container;
mod create;
mod delete;
mod events;
mod exec;
mod features;
mod kill;
mod list;
mod pause;
mod ps;
mod restore;
mod resume;
mod run;
mod size;
mod spec;
mod start;
mod state;
mod update;

use super::{Count, Verb};

pub(super) use ps::{host_ps, select};
pub(super) use rcrun_runtime::template::signal::parse as parse_signal;

/// Whether this is a signal's name or number.
pub(super) fn is_signal(text: &str) -> bool {
    parse_signal(text).is_ok()
}

const ONE_ID: &str = "<container-id>

Where \"<container-id>\" is the name of the container.";

const NEW_ID: &str = "<container-id>

Where \"<container-id>\" is your name for the instance of the container that you
are starting. It must be unique on your host.";

const EXEC: &str = "<container-id> <command> [command options]  || -p process.json <container-id>

Where \"<container-id>\" is the name of the container and \"<command>\" is what is
run in it. \"<command>\" can't be empty unless \"-p\" is given.

EXAMPLE:
       # rcrun exec <container-id> ps";

const KILL: &str = "<container-id> [signal]

Where \"<container-id>\" is the name of the container and \"[signal]\" is the signal
to be sent to its init process, by name or number.

EXAMPLE:
       # rcrun kill ubuntu01 KILL";

const LIST: &str = "

Where the given root is specified via the global option \"--root\".";

/// The rows, in the order of the help.
pub(super) const VERBS: &[Verb] = &[
    Verb::new::<checkpoint::Checkpoint>("checkpoint", Count::Exactly(1), ONE_ID),
    Verb::new::<create::Create>("create", Count::Exactly(1), NEW_ID)
        .enters_container()
        .fails_as("runc create failed: ", 1),
    Verb::new::<delete::Delete>("delete", Count::Exactly(1), ONE_ID),
    Verb::new::<events::Events>("events", Count::Exactly(1), ONE_ID),
    Verb::new::<exec::Exec>("exec", Count::AtLeast(1), EXEC)
        .enters_container()
        .stop_after(1)
        .fails_as("exec failed: ", 255),
    Verb::new::<kill::Kill>("kill", Count::Between(1, 2), KILL).stop_after(1),
    Verb::new::<list::List>("list", Count::Exactly(0), LIST),
    Verb::new::<pause::Pause>("pause", Count::Exactly(1), ONE_ID),
    Verb::new::<ps::Ps>("ps", Count::AtLeast(1), "<container-id> [ps options]").stop_after(1),
    Verb::new::<restore::Restore>("restore", Count::Exactly(1), NEW_ID).enters_container(),
    Verb::new::<resume::Resume>("resume", Count::Exactly(1), ONE_ID),
    // Shown by the people's verb of this name.
    Verb::new::<run::Run>("run", Count::Exactly(1), NEW_ID)
        .hidden()
        .enters_container()
        .fails_as("runc run failed: ", 1),
    Verb::new::<spec::Spec>("spec", Count::Exactly(0), ""),
    Verb::new::<start::Start>("start", Count::Exactly(1), NEW_ID),
    Verb::new::<state::State>("state", Count::Exactly(1), ONE_ID),
    Verb::new::<update::Update>("update", Count::Exactly(1), "<container-id>"),
    Verb::new::<features::Features>("features", Count::Exactly(0), ""),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_parser_is_consistent_and_has_a_help_line() {
        for verb in VERBS {
            let command = (verb.command)();
            assert!(command.get_about().is_some(), "{}", verb.name);
            for argument in command.get_arguments().filter(|a| a.get_long().is_some()) {
                assert!(
                    argument.is_hide_set() || argument.get_help().is_some(),
                    "{argument}"
                );
            }
            command.debug_assert();
        }
    }

    /// The flags of runc 1.5, verb by verb, in alphabetical order; `=` after those with a value. Of
    /// crun's own ones `config` and `regex`.
    const FLAGS: &[(&str, &str)] = &[
        (
            "checkpoint",
            "auto-dedup empty-ns= ext-unix-sk file-locks image-path= lazy-pages leave-running \
             link-remap manage-cgroups-mode= page-server= parent-path= pre-dump shell-job \
             status-fd= tcp-established tcp-skip-in-flight work-path=",
        ),
        (
            "create",
            "b,bundle= console-socket= f,config= no-new-keyring no-pivot pid-file= \
             pidfd-socket= preserve-fds=",
        ),
        ("delete", "f,force regex"),
        ("events", "interval= stats"),
        (
            "exec",
            "apparmor= c,cap= cgroup= console-socket= cwd= d,detach e,env= g,additional-gids= \
             ignore-paused no-new-privs no-subreaper p,process= pid-file= pidfd-socket= \
             preserve-fds= process-label= t,tty u,user=",
        ),
        ("features", ""),
        ("kill", "a,all"),
        ("list", "f,format= q,quiet"),
        ("pause", ""),
        ("ps", "f,format="),
        (
            "restore",
            "auto-dedup b,bundle= console-socket= d,detach empty-ns= ext-unix-sk file-locks \
             image-path= lazy-pages lsm-mount-context= lsm-profile= manage-cgroups-mode= \
             no-pivot no-subreaper pid-file= shell-job tcp-established work-path=",
        ),
        ("resume", ""),
        (
            "run",
            "b,bundle= console-socket= d,detach f,config= keep no-new-keyring no-pivot \
             no-subreaper pid-file= pidfd-socket= preserve-fds=",
        ),
        ("spec", "b,bundle= rootless"),
        ("start", ""),
        ("state", ""),
        (
            "update",
            "blkio-weight= cpu-burst= cpu-idle= cpu-period= cpu-quota= cpu-rt-period= \
             cpu-rt-runtime= cpu-share= cpuset-cpus= cpuset-mems= kernel-memory-tcp= \
             kernel-memory= l3-cache-schema= mem-bw-schema= memory-reservation= memory-swap= \
             memory= pids-limit= r,resources=",
        ),
    ];

    /// Our own, for our own callers; not in the help.
    const OWN: &[(&str, &str)] = &[
        ("create", "root-fd"),
        ("exec", "attend"),
        ("run", "root-fd"),
    ];

    #[test]
    fn verbs_and_flags_are_those_of_runc_and_two_of_crun() {
        for (name, flags) in FLAGS {
            let verb = VERBS.iter().find(|verb| verb.name == *name).expect(name);
            let command = (verb.command)();
            let mut found: Vec<String> = command
                .get_arguments()
                .filter(|argument| {
                    let long = argument.get_long().unwrap_or_default();
                    !(argument.is_hide_set() && OWN.contains(&(*name, long)))
                })
                .filter_map(crate::verbs::flag)
                .map(|flag| {
                    let short = flag
                        .short
                        .map(|short| format!("{short},"))
                        .unwrap_or_default();
                    format!(
                        "{short}{}{}",
                        flag.long,
                        if flag.takes_value { "=" } else { "" }
                    )
                })
                .collect();
            found.sort_unstable();
            assert_eq!(found.join(" "), *flags, "{name}");
        }
        assert_eq!(VERBS.len(), FLAGS.len());
    }
}
