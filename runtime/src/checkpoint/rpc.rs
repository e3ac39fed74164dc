//! The messages of criu's RPC (images/rpc.proto of criu), as far as checkpointing containers needs
//! them, in protobuf's wire format (protobuf.dev, "Encoding"). Pure.
//!
//! Fields that are not set are not sent: criu's defaults apply. Fields of an answer that are not
//! known here are skipped.

#[cfg(test)]
mod tests;
pub(super) mod wire;

use wire::{Encoder, Value, fields, find};

use crate::error::{Error, Result};

/// `criu_req_type`, the ones in use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u64)]
pub(super) enum Kind {
    /// Save the processes.
    Dump = 1,
    /// Make them anew.
    Restore = 2,
    /// Save memory only.
    PreDump = 4,
    /// Something happened; to be acknowledged.
    Notify = 6,
    /// Which features are there?
    FeatureCheck = 9,
    /// Which version is it?
    Version = 10,
}

/// What criu calls a request, for messages.
pub(super) fn kind_name(kind: u64) -> &'static str {
    const NAMES: [&str; 14] = [
        "EMPTY",
        "DUMP",
        "RESTORE",
        "CHECK",
        "PRE_DUMP",
        "PAGE_SERVER",
        "NOTIFY",
        "CPUINFO_DUMP",
        "CPUINFO_CHECK",
        "FEATURE_CHECK",
        "VERSION",
        "WAIT_PID",
        "PAGE_SERVER_CHLD",
        "SINGLE_PRE_DUMP",
    ];
    let index = usize::try_from(kind).unwrap_or(usize::MAX);
    NAMES.get(index).copied().unwrap_or("unknown")
}

/// `criu_opts`. `None`, `false` and empty lists are not sent.
#[derive(Debug, Clone, Default)]
pub(super) struct Options {
    /// Descriptor, in the requesting process, of the image directory.
    pub images_dir_fd: i32,
    /// First process of what is dumped.
    pub pid: Option<i32>,
    /// Do not kill what was dumped.
    pub leave_running: bool,
    /// Unix sockets connected to the outside.
    pub ext_unix_sk: bool,
    /// Established TCP connections.
    pub tcp_established: bool,
    /// Opens devices by their number, whatever the path.
    pub evasive_devices: bool,
    /// Established TCP connections are closed.
    pub tcp_close: bool,
    /// A session leader or terminal outside.
    pub shell_job: bool,
    /// File locks.
    pub file_locks: bool,
    /// 0 to 4.
    pub log_level: Option<i32>,
    /// Name in the work directory.
    pub log_file: Option<&'static str>,
    /// Address and port.
    pub page_server: Option<(String, u16)>,
    /// Send [`Kind::Notify`].
    pub notify_scripts: bool,
    /// Root directory of the container, as seen by criu.
    pub root: Option<Vec<u8>>,
    /// Earlier images, relative to the image directory.
    pub parent_img: Option<Vec<u8>>,
    /// Track changes of memory.
    pub track_mem: bool,
    /// Punch holes into earlier images.
    pub auto_dedup: bool,
    /// Descriptor, in the requesting process, of the work directory.
    pub work_dir_fd: Option<i32>,
    /// Link unlinked files back.
    pub link_remap: bool,
    /// Mounts from outside: key and value.
    pub external_mounts: Vec<(Vec<u8>, Vec<u8>)>,
    /// Controller and path of the cgroup that stands for the dumped root.
    pub cgroup_roots: Vec<(String, String)>,
    /// Restored processes become children of criu's parent.
    pub restore_as_sibling: bool,
    /// Key and descriptor, in criu's process.
    pub inherited: Vec<(String, i32)>,
    /// `criu_cg_mode`.
    pub cgroup_mode: Option<u64>,
    /// External resources, as for `--external`.
    pub external: Vec<String>,
    /// `CLONE_NEW*` of namespaces whose contents are not saved.
    pub empty_namespaces: u64,
    /// Namespaces to enter: name and path.
    pub join_namespaces: Vec<(&'static str, Vec<u8>)>,
    /// Directory of the freezer.
    pub freeze_cgroup: Option<Vec<u8>>,
    /// Leave out connections that are being made.
    pub tcp_skip_in_flight: bool,
    /// Pages on demand.
    pub lazy_pages: bool,
    /// Bytes of the largest file without a name.
    pub ghost_limit: Option<u32>,
    /// Descriptor, in the requesting process, that hears when pages are served.
    pub status_fd: Option<i32>,
    /// Terminals whose master is outside.
    pub orphan_pts_master: bool,
    /// File with more options.
    pub config_file: Option<Vec<u8>>,
    /// `TYPE:NAME`.
    pub lsm_profile: Option<String>,
    /// SELinux context of mounts.
    pub lsm_mount_context: Option<String>,
}

/// `criu_features`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Features {
    /// Changes of memory can be tracked.
    pub mem_track: bool,
    /// Pages can be restored on demand.
    pub lazy_pages: bool,
}

/// `criu_resp`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Response {
    /// `criu_req_type`.
    pub kind: u64,
    /// Whether the request was carried out.
    pub success: bool,
    /// The restored init.
    pub restored: Option<i32>,
    /// What happened, and the process concerned.
    pub notify: Option<(String, Option<i32>)>,
    /// What kind of failure it was.
    pub errno: i32,
    /// Answer to [`Kind::FeatureCheck`].
    pub features: Option<Features>,
    /// criu's first error.
    pub message: Option<String>,
    /// Answer to [`Kind::Version`].
    pub version: Option<Version>,
}

/// A version as a number that can be compared: 31500 is 3.15.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub(super) struct Version(pub u64);

impl std::fmt::Display for Version {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{}", self.0 / 10_000, self.0 / 100 % 100)?;
        match self.0 % 100 {
            0 => Ok(()),
            sublevel => write!(f, ".{sublevel}"),
        }
    }
}

/// A question without options; `keep_open` lets another request follow on the same connection.
pub(super) fn question(kind: Kind) -> Vec<u8> {
    let mut request = Encoder::default();
    request.number(1, kind as u64);
    request.flag(4, true);
    if kind == Kind::FeatureCheck {
        let mut features = Encoder::default();
        features.flag(1, true);
        features.flag(2, true);
        request.bytes(5, &features.0);
    }
    request.0
}

/// Dump, pre-dump or restore.
pub(super) fn request(kind: Kind, options: &Options) -> Vec<u8> {
    let mut request = Encoder::default();
    request.number(1, kind as u64);
    request.bytes(2, &options.encode());
    request.0
}

/// The answer to a notification.
pub(super) fn acknowledge(success: bool) -> Vec<u8> {
    let mut request = Encoder::default();
    request.number(1, Kind::Notify as u64);
    request.number(3, u64::from(success));
    request.0
}

impl Options {
    fn encode(&self) -> Vec<u8> {
        let mut out = Encoder::default();
        out.signed(1, self.images_dir_fd);
        self.encode_flags(&mut out);
        for (field, value) in [
            (2, self.pid),
            (9, self.log_level),
            (17, self.work_dir_fd),
            (49, self.status_fd),
        ] {
            if let Some(value) = value {
                out.signed(field, value);
            }
        }
        out.text(10, self.log_file);
        out.text(13, self.root.as_ref());
        out.text(14, self.parent_img.as_ref());
        out.text(44, self.freeze_cgroup.as_ref());
        out.text(51, self.config_file.as_ref());
        out.text(53, self.lsm_profile.as_ref());
        out.text(63, self.lsm_mount_context.as_ref());
        if let Some((address, port)) = &self.page_server {
            let mut server = Encoder::default();
            server.bytes(1, address.as_bytes());
            server.number(2, u64::from(*port));
            out.bytes(11, &server.0);
        }
        if let Some(mode) = self.cgroup_mode {
            out.flag(24, true);
            out.number(34, mode);
        }
        if let Some(limit) = self.ghost_limit {
            out.number(35, u64::from(limit));
        }
        for (key, value) in &self.external_mounts {
            out.pair(23, key, value);
        }
        for (controller, path) in &self.cgroup_roots {
            out.pair(25, controller.as_bytes(), path.as_bytes());
        }
        for (key, fd) in &self.inherited {
            let mut inherited = Encoder::default();
            inherited.bytes(1, key.as_bytes());
            inherited.signed(2, *fd);
            out.bytes(27, &inherited.0);
        }
        for external in &self.external {
            out.bytes(37, external.as_bytes());
        }
        if self.empty_namespaces != 0 {
            out.number(38, self.empty_namespaces);
        }
        for (name, path) in &self.join_namespaces {
            out.pair(39, name.as_bytes(), path);
        }
        out.0
    }

    fn encode_flags(&self, out: &mut Encoder) {
        for (field, value) in [
            (3, self.leave_running),
            (4, self.ext_unix_sk),
            (5, self.tcp_established),
            (6, self.evasive_devices),
            (7, self.shell_job),
            (8, self.file_locks),
            (12, self.notify_scripts),
            (15, self.track_mem),
            (16, self.auto_dedup),
            (18, self.link_remap),
            (26, self.restore_as_sibling),
            (46, self.tcp_skip_in_flight),
            (48, self.lazy_pages),
            (50, self.orphan_pts_master),
            (52, self.tcp_close),
        ] {
            out.flag(field, value);
        }
    }
}

impl Response {
    /// Reads an answer.
    pub(super) fn decode(bytes: &[u8]) -> Result<Self> {
        let mut response = Self::default();
        for field in fields(bytes) {
            let (number, value) = field?;
            match number {
                1 => response.kind = value.number(),
                2 => response.success = value.number() != 0,
                4 => response.restored = find(value, 1)?.map(Value::int),
                5 => {
                    let script = find(value, 1)?.map(Value::text).unwrap_or_default();
                    response.notify = Some((script, find(value, 2)?.map(Value::int)));
                }
                7 => response.errno = value.int(),
                8 => {
                    let flag = |n| Ok::<_, Error>(find(value, n)?.is_some_and(|v| v.number() != 0));
                    response.features = Some(Features {
                        mem_track: flag(1)?,
                        lazy_pages: flag(2)?,
                    });
                }
                9 => response.message = Some(value.text()),
                10 => response.version = Some(version(value)?),
                _ => {}
            }
        }
        Ok(response)
    }
}

/// What was built from git counts as the release to come.
fn version(message: Value<'_>) -> Result<Version> {
    let number = |field| Ok::<_, Error>(find(message, field)?.map_or(0, Value::number));
    let release = number(1)? * 10_000 + number(2)? * 100;
    let from_git = find(message, 3)?.is_some_and(|gitid| !gitid.bytes().is_empty());
    Ok(Version(if from_git {
        release + 100
    } else {
        release + number(4)?
    }))
}
