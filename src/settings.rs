//! The global flags, wherever they stand on the command line, resolved into [`Settings`].

mod file;

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use rcrun_overlay::store::Store;
use rcrun_runtime::container::{CgroupDriver, Runtime};
use rcrun_runtime::error::{Context, Error, Result};
use rcrun_runtime::template::clean;

use crate::arguments::{Flag, switch};
use crate::logging::Format;
use crate::rootless;
pub(crate) use file::{DefaultNetwork, File};

/// State directory of a privileged caller.
pub(crate) const DEFAULT_ROOT: &str = "/run/rcrun";

/// Store of a privileged caller.
const DEFAULT_STORE: &str = "/var/lib/rcrun";

/// Global flags; also the source of the help text.
pub(crate) const GLOBAL: &[(Flag<'static>, &str)] = &[
    (
        value("log"),
        "set the log file to write logs to (default is '/dev/stderr')",
    ),
    (
        value("log-format"),
        "set the log format ('text' (default), or 'json')",
    ),
    (
        value("root"),
        "root directory for storage of container state (this should be located in tmpfs)",
    ),
    (
        value("store"),
        "directory of images, layers and containers (default /var/lib/rcrun; $RCRUN_STORE)",
    ),
    (
        switch_flag("systemd-cgroup"),
        "enable systemd cgroup support, expects cgroupsPath to be of form \"slice:prefix:name\"",
    ),
    (
        value("cgroup-manager"),
        "cgroup manager as crun has it: 'cgroupfs', 'systemd' (as --systemd-cgroup), or 'disabled'",
    ),
    (
        value("rootless"),
        "ignore cgroup permission errors ('true', 'false', or 'auto')",
    ),
    (
        value("criu"),
        "path to the criu binary used for checkpoint and restore",
    ),
    (switch_flag("debug"), "enable debug logging"),
    (
        Flag {
            long: "help",
            short: Some('h'),
            takes_value: false,
        },
        "show help",
    ),
    (
        Flag {
            long: "version",
            short: Some('v'),
            takes_value: false,
        },
        "print the version",
    ),
];

const fn value(long: &'static str) -> Flag<'static> {
    Flag {
        long,
        short: None,
        takes_value: true,
    }
}

const fn switch_flag(long: &'static str) -> Flag<'static> {
    Flag {
        long,
        short: None,
        takes_value: false,
    }
}

/// The global flags as they were written.
#[derive(Debug, Default, Clone)]
pub(crate) struct Global {
    log: Option<String>,
    log_format: Option<String>,
    root: Option<String>,
    store: Option<String>,
    systemd_cgroup: bool,
    cgroup_manager: Option<String>,
    rootless: Option<String>,
    criu: Option<String>,
    debug: bool,
    /// `--help` was given.
    pub(crate) help: bool,
    /// `--version` was given.
    pub(crate) version: bool,
}

impl Global {
    /// Takes one flag of [`GLOBAL`]; the last of several wins.
    pub(crate) fn set(&mut self, name: &str, value: String) {
        let on = value == "true";
        match name {
            "log" => self.log = Some(value),
            "log-format" => self.log_format = Some(value),
            "root" => self.root = Some(value),
            "store" => self.store = Some(value),
            "systemd-cgroup" => self.systemd_cgroup = on,
            "cgroup-manager" => self.cgroup_manager = Some(value),
            "rootless" => self.rootless = Some(value),
            "criu" => self.criu = Some(value),
            "debug" => self.debug = on,
            "help" => self.help = on,
            "version" => self.version = on,
            _ => unreachable!("GLOBAL has a flag that Global does not know: {name}"),
        }
    }

    /// Where containers of people may be, for a look that costs an OCI verb next to nothing. Root of a
    /// user namespace without `$HOME` is taken for root of the machine.
    pub(crate) fn store_path(&self) -> Option<PathBuf> {
        let variable = |name| std::env::var(name).ok().filter(|value| !value.is_empty());
        let given = self.store.clone().or_else(|| variable("RCRUN_STORE"));
        let homeless = || variable("HOME").is_none() && variable("XDG_DATA_HOME").is_none();
        let machine = homeless() && rustix::process::geteuid().is_root();
        let user = given.is_none() && !machine && uses_user_directory();
        store_path(given.as_deref(), user, variable).ok()
    }

    /// Where the state of people's containers is, and who limits them: unlike engines, people need not
    /// know of `$XDG_RUNTIME_DIR` and delegation.
    pub(crate) fn use_defaults_of_user(&mut self) -> Result<()> {
        if !uses_user_directory() {
            return Ok(());
        }
        if self.cgroup_manager.is_none() && !self.systemd_cgroup {
            self.systemd_cgroup = has_own_systemd();
        }
        if self.root.is_none() {
            let root = rootless::runtime_directory()?;
            keep_from_cleaners(&root).context(|| format!("cannot prepare {}", root.display()))?;
            self.use_root(&root);
        }
        Ok(())
    }

    /// Sets `--root` to that of a container.
    pub(crate) fn use_root(&mut self, root: &Path) {
        self.root = root.to_str().map(str::to_owned);
    }

    /// Where the runtime's state is, if the flag says so.
    pub(crate) fn root(&self) -> Option<&Path> {
        self.root.as_deref().map(Path::new)
    }

    /// The same again for another process, which may be in another directory.
    fn log_flags(&self) -> Vec<OsString> {
        let mut flags: Vec<OsString> = Vec::new();
        if let Some(path) = self.log.as_deref().filter(|path| !path.is_empty()) {
            let path = std::path::absolute(path).unwrap_or_else(|_| path.into());
            flags.extend(["--log".into(), path.into()]);
        }
        if let Some(format) = &self.log_format {
            flags.extend(["--log-format".into(), format.into()]);
        }
        if self.debug {
            flags.push("--debug".into());
        }
        flags
    }

    /// Where and how to log; needed before anything else can fail.
    pub(crate) fn log(&self) -> Result<(Option<&Path>, Format, bool)> {
        let format = match self.log_format.as_deref() {
            None | Some("" | "text") => Format::Text,
            Some("json") => Format::Json,
            Some(other) => return Err(Error::invalid(format!("invalid log-format: {other}"))),
        };
        let file = self
            .log
            .as_deref()
            .filter(|path| !path.is_empty())
            .map(Path::new);
        Ok((file, format, self.debug))
    }
}

/// What the verbs work with.
#[derive(Debug, Clone)]
pub(crate) struct Settings {
    /// The library, told its state directory and cgroup driver.
    pub(crate) runtime: Runtime,
    /// Whether `--root` was given: a missing default directory is an empty one.
    pub(crate) root_given: bool,
    /// `--criu`.
    pub(crate) criu: Option<PathBuf>,
    /// `--store`.
    store: Option<String>,
    log_flags: Vec<OsString>,
}

impl Settings {
    /// Resolves the flags against the environment.
    pub(crate) fn new(global: Global) -> Result<Self> {
        let rootless = match global.rootless.as_deref() {
            None | Some("") => None,
            Some(text) if text.eq_ignore_ascii_case("auto") => None,
            Some(text) => Some(switch(text).ok_or_else(|| {
                Error::invalid(format!("invalid value {text:?} for flag -rootless"))
            })?),
        };
        let log_flags = global.log_flags();
        let root_given = global.root.is_some();
        let root = match global.root {
            Some(root) => given_root(&root)?,
            None => default_root()?,
        };
        let cgroup_driver = cgroup_driver(global.cgroup_manager.as_deref(), global.systemd_cgroup)?;
        let runtime = Runtime {
            root,
            cgroup_driver,
            rootless,
        };
        Ok(Self {
            runtime,
            root_given,
            criu: global.criu.map(PathBuf::from),
            store: global.store,
            log_flags,
        })
    }

    /// Global flags that let another process of ours log as this one does.
    pub(crate) fn log_flags(&self) -> Vec<OsString> {
        self.log_flags.clone()
    }

    /// Where the store is.
    pub(crate) fn store_path(&self) -> Result<PathBuf> {
        let variable = |name| std::env::var(name).ok().filter(|value| !value.is_empty());
        let given = self.store.clone().or_else(|| variable("RCRUN_STORE"));
        store_path(given.as_deref(), uses_user_directory(), variable)
    }

    /// Opens the store, and makes it where there is none.
    pub(crate) fn store(&self) -> Result<Store> {
        let store = Store::open(&self.store_path()?)?;
        if let Some(root) = rootless::outside() {
            store.seen_from(root);
        }
        Ok(store)
    }

    /// The settings file, read anew.
    pub(crate) fn file(&self) -> Result<File> {
        let variable = |name| std::env::var(name).ok().filter(|value| !value.is_empty());
        File::find(uses_user_directory(), variable)
    }
}

/// The store of the machine, or of an ordinary user.
fn store_path(
    given: Option<&str>,
    user: bool,
    variable: impl Fn(&'static str) -> Option<String>,
) -> Result<PathBuf> {
    if let Some(given) = given {
        let current = std::env::current_dir().context(|| "cannot read the current directory")?;
        return Ok(clean(&current.join(given)));
    }
    if !user {
        return Ok(PathBuf::from(DEFAULT_STORE));
    }
    let data = variable("XDG_DATA_HOME").map(PathBuf::from);
    let home = || variable("HOME").map(|home| Path::new(&home).join(".local/share"));
    let data = data.filter(|path| path.is_absolute()).or_else(home);
    data.map(|path| path.join("rcrun")).ok_or_else(|| {
        Error::invalid("cannot tell where the store is: set $HOME, or give --store DIR")
    })
}

/// `--systemd-cgroup`, or `--cgroup-manager`, which must not say the opposite.
fn cgroup_driver(manager: Option<&str>, systemd: bool) -> Result<CgroupDriver> {
    match (manager, systemd) {
        (None | Some(""), false) | (Some("cgroupfs"), false) => Ok(CgroupDriver::Files),
        (None | Some("" | "systemd"), _) => Ok(CgroupDriver::Systemd),
        (Some("disabled"), false) => Ok(CgroupDriver::None),
        (Some(other @ ("cgroupfs" | "disabled")), true) => Err(Error::invalid(format!(
            "--cgroup-manager {other} and --systemd-cgroup exclude each other"
        ))),
        (Some(other), _) => Err(Error::invalid(format!(
            "invalid value {other:?} for flag -cgroup-manager: use cgroupfs, systemd or disabled"
        ))),
    }
}

fn given_root(root: &str) -> Result<PathBuf> {
    let current = std::env::current_dir().context(|| "cannot read the current directory")?;
    let root = clean(&current.join(root));
    if root == Path::new("/") {
        return Err(Error::invalid(
            "Option --root argument should not be set to /",
        ));
    }
    Ok(root)
}

fn default_root() -> Result<PathBuf> {
    let user_dir = std::env::var_os("XDG_RUNTIME_DIR").filter(|dir| !dir.is_empty());
    let Some(user_dir) = user_dir.filter(|_| uses_user_directory()) else {
        return Ok(PathBuf::from(DEFAULT_ROOT));
    };
    let root = Path::new(&user_dir).join("rcrun");
    keep_from_cleaners(&root).context(|| {
        format!(
            "cannot prepare {}: the path in $XDG_RUNTIME_DIR must be writable",
            root.display()
        )
    })?;
    Ok(root)
}

/// Whether an ordinary user has a part of the cgroup v2 hierarchy, in which a systemd of the user's own
/// makes cgroups.
fn has_own_systemd() -> bool {
    let runtime = std::env::var_os("XDG_RUNTIME_DIR").filter(|dir| !dir.is_empty());
    Path::new("/sys/fs/cgroup/cgroup.controllers").exists()
        && runtime.is_some_and(|dir| Path::new(&dir).join("systemd/private").exists())
}

/// The XDG base directory specification lets cleaners delete what has no sticky bit.
fn keep_from_cleaners(root: &Path) -> Result<()> {
    use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
    let mut builder = std::fs::DirBuilder::new();
    builder.recursive(true).mode(0o700).create(root)?;
    std::fs::set_permissions(root, std::fs::Permissions::from_mode(0o1700))?;
    Ok(())
}

/// Whether the caller is an ordinary user, or root of a user namespace that one made. Who is another
/// one outside is certainly that; for others runc's rule stands, since engines rely on it.
fn uses_user_directory() -> bool {
    if !rustix::process::geteuid().is_root() {
        return true;
    }
    in_user_namespace()
        && (rootless::outer_root().is_some_and(|outer| outer != 0)
            || std::env::var_os("USER").is_none_or(|user| user != "root"))
}

/// Whether this process is in another user namespace than the machine's first one.
pub(crate) fn in_user_namespace() -> bool {
    // One call where it is the machine's: its number is fixed (PROC_USER_INIT_INO of proc_ns.h).
    if std::fs::read_link("/proc/self/ns/user")
        .is_ok_and(|link| link.as_os_str() == "user:[4026531837]")
    {
        return false;
    }
    std::fs::read_to_string("/proc/self/uid_map").is_ok_and(|map| !is_identity(&map))
}

fn is_identity(uid_map: &str) -> bool {
    let numbers: Vec<&str> = uid_map.split_whitespace().collect();
    numbers == ["0", "0", "4294967295"]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_global_flag_is_stored() {
        let mut global = Global::default();
        for (flag, _) in GLOBAL {
            let value = if flag.takes_value { "x" } else { "true" };
            global.set(flag.long, value.to_owned());
        }
        assert!(global.debug && global.systemd_cgroup && global.help && global.version);
        assert_eq!(global.criu.as_deref(), Some("x"));
    }

    #[test]
    fn root_is_refused_however_it_is_written() {
        for root in [
            "/",
            "//",
            "/..",
            "/a/../..",
            "../../../../../../../../../../../../..",
        ] {
            let message = given_root(root).unwrap_err().to_string();
            assert_eq!(
                message, "Option --root argument should not be set to /",
                "{root}"
            );
        }
        assert_eq!(given_root("/run/./x/../y").unwrap(), Path::new("/run/y"));
    }

    #[test]
    fn stores() {
        let variable = |set: &'static [(&str, &str)]| {
            move |name: &'static str| {
                let found = set.iter().find(|(other, _)| *other == name);
                found.map(|(_, value)| (*value).to_owned())
            }
        };
        let home = variable(&[("HOME", "/home/a")]);
        let both = variable(&[("HOME", "/home/a"), ("XDG_DATA_HOME", "/data")]);
        let relative = variable(&[("HOME", "/home/a"), ("XDG_DATA_HOME", "data")]);
        let path = |given, user, variable: &dyn Fn(&'static str) -> Option<String>| {
            store_path(given, user, variable).ok()
        };
        let cases = [
            (path(None, false, &home), Some("/var/lib/rcrun")),
            (path(None, true, &home), Some("/home/a/.local/share/rcrun")),
            (path(None, true, &both), Some("/data/rcrun")),
            (
                path(None, true, &relative),
                Some("/home/a/.local/share/rcrun"),
            ),
            (path(None, true, &variable(&[])), None),
            (path(Some("/s/../t/"), true, &both), Some("/t")),
        ];
        for (found, expected) in cases {
            assert_eq!(found.as_deref(), expected.map(Path::new));
        }
    }

    #[test]
    fn cgroup_managers() {
        for (manager, systemd, expected) in [
            (None, false, Some(CgroupDriver::Files)),
            (None, true, Some(CgroupDriver::Systemd)),
            (Some(""), true, Some(CgroupDriver::Systemd)),
            (Some("cgroupfs"), false, Some(CgroupDriver::Files)),
            (Some("systemd"), false, Some(CgroupDriver::Systemd)),
            (Some("systemd"), true, Some(CgroupDriver::Systemd)),
            (Some("cgroupfs"), true, None),
            (Some("disabled"), false, Some(CgroupDriver::None)),
            (Some("disabled"), true, None),
            (Some("Systemd"), false, None),
        ] {
            let found = cgroup_driver(manager, systemd);
            assert_eq!(found.ok(), expected, "{manager:?} {systemd}");
        }
    }

    #[test]
    fn rootless_takes_three_words() {
        for (text, expected) in [
            ("auto", None),
            ("", None),
            ("AUTO", None),
            ("true", Some(true)),
            ("0", Some(false)),
        ] {
            let mut global = Global::default();
            global.set("root", "/x".into());
            global.set("rootless", text.into());
            assert_eq!(
                Settings::new(global).unwrap().runtime.rootless,
                expected,
                "{text}"
            );
        }
        let mut global = Global::default();
        global.set("root", "/x".into());
        global.set("rootless", "maybe".into());
        assert!(Settings::new(global).is_err());
    }

    #[test]
    fn the_first_user_namespace_maps_everything() {
        assert!(is_identity("         0          0 4294967295\n"));
        assert!(!is_identity("         0       1000          1\n"));
        assert!(!is_identity("0 0 65536\n"));
    }
}
