//! The messages of criu's RPC (images/rpc.proto of criu), as far as checkpointing containers needs
//! them, in protobuf's wire format (protobuf.dev, "Encoding"). Pure.
//!
//! Fields that are not set are not sent: criu's defaults apply. Fields of an answer that are not
//! known here are skipped.

use crate::error::{Error, ErrorKind, Result};

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

#[derive(Debug, Default)]
struct Encoder(Vec<u8>);

impl Encoder {
    fn varint(&mut self, mut value: u64) {
        while value > 0x7f {
            self.0.push(value as u8 | 0x80);
            value >>= 7;
        }
        self.0.push(value as u8);
    }

    fn number(&mut self, field: u64, value: u64) {
        self.varint(field << 3);
        self.varint(value);
    }

    /// Negative numbers are extended to 64 bits.
    fn signed(&mut self, field: u64, value: i32) {
        self.number(field, i64::from(value) as u64);
    }

    fn flag(&mut self, field: u64, value: bool) {
        if value {
            self.number(field, 1);
        }
    }

    fn bytes(&mut self, field: u64, value: &[u8]) {
        self.varint(field << 3 | 2);
        self.varint(value.len() as u64);
        self.0.extend_from_slice(value);
    }

    fn text<T: AsRef<[u8]>>(&mut self, field: u64, value: Option<T>) {
        if let Some(value) = value {
            self.bytes(field, value.as_ref());
        }
    }

    /// A message of two strings, the fields 1 and 2.
    fn pair(&mut self, field: u64, first: &[u8], second: &[u8]) {
        let mut pair = Self::default();
        pair.bytes(1, first);
        pair.bytes(2, second);
        self.bytes(field, &pair.0);
    }
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
        ] {
            out.flag(field, value);
        }
    }
}

/// One field of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Value<'a> {
    Number(u64),
    Bytes(&'a [u8]),
    /// Of fixed size; criu's answers have none.
    Other,
}

impl<'a> Value<'a> {
    fn number(self) -> u64 {
        match self {
            Value::Number(number) => number,
            _ => 0,
        }
    }

    fn int(self) -> i32 {
        self.number() as i32
    }

    fn bytes(self) -> &'a [u8] {
        match self {
            Value::Bytes(bytes) => bytes,
            _ => &[],
        }
    }

    fn text(self) -> String {
        String::from_utf8_lossy(self.bytes()).into_owned()
    }
}

/// The fields of a message, in order.
fn fields(mut rest: &[u8]) -> impl Iterator<Item = Result<(u64, Value<'_>)>> {
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let field = field(&mut rest);
        if field.is_none() {
            rest = &[];
        }
        Some(field.ok_or_else(|| {
            Error::new(
                ErrorKind::Internal,
                "criu's answer is not a protobuf message",
            )
        }))
    })
}

fn field<'a>(rest: &mut &'a [u8]) -> Option<(u64, Value<'a>)> {
    let key = varint(rest)?;
    let value = match key & 7 {
        0 => Value::Number(varint(rest)?),
        1 => take(rest, 8).map(|_| Value::Other)?,
        2 => {
            let length = usize::try_from(varint(rest)?).ok()?;
            Value::Bytes(take(rest, length)?)
        }
        5 => take(rest, 4).map(|_| Value::Other)?,
        _ => return None,
    };
    Some((key >> 3, value))
}

fn take<'a>(rest: &mut &'a [u8], length: usize) -> Option<&'a [u8]> {
    let (taken, left) = rest.split_at_checked(length)?;
    *rest = left;
    Some(taken)
}

fn varint(rest: &mut &[u8]) -> Option<u64> {
    let mut value = 0u64;
    for shift in (0..64).step_by(7) {
        let (byte, left) = rest.split_first()?;
        *rest = left;
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
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

/// The last occurrence of a field in an embedded message.
fn find(message: Value<'_>, wanted: u64) -> Result<Option<Value<'_>>> {
    let mut found = None;
    for field in fields(message.bytes()) {
        let (number, value) = field?;
        if number == wanted {
            found = Some(value);
        }
    }
    Ok(found)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_encoded_as_the_format_says() {
        for (value, bytes) in [
            (0u64, vec![0u8]),
            (1, vec![1]),
            (127, vec![0x7f]),
            (150, vec![0x96, 0x01]),
            (
                u64::MAX,
                vec![0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01],
            ),
        ] {
            let mut encoder = Encoder::default();
            encoder.varint(value);
            assert_eq!(encoder.0, bytes, "{value}");
            let mut rest = bytes.as_slice();
            assert_eq!(varint(&mut rest), Some(value));
            assert!(rest.is_empty());
        }
        let mut encoder = Encoder::default();
        encoder.signed(1, -1);
        assert_eq!(encoder.0.len(), 11, "a negative int32 takes ten bytes");
    }

    #[test]
    fn requests_are_byte_for_byte_what_criu_reads() {
        assert_eq!(question(Kind::Version), [0x08, 10, 0x20, 1]);
        assert_eq!(
            question(Kind::FeatureCheck),
            [0x08, 9, 0x20, 1, 0x2a, 4, 0x08, 1, 0x10, 1]
        );
        assert_eq!(acknowledge(true), [0x08, 6, 0x18, 1]);
        assert_eq!(acknowledge(false), [0x08, 6, 0x18, 0]);
        let options = Options {
            images_dir_fd: 5,
            pid: Some(300),
            external_mounts: vec![(b"/a".to_vec(), b"/b".to_vec())],
            inherited: vec![("pipe:[7]".into(), 1)],
            cgroup_mode: Some(0),
            empty_namespaces: 0x4000_0000,
            lsm_profile: Some("x".into()),
            ..Options::default()
        };
        let expected = [
            &[0x08, 1, 0x12, 48, 0x08, 5, 0x10, 0xac, 0x02][..],
            &[0xaa, 0x03, 1, b'x'],
            &[0xc0, 0x01, 1, 0x90, 0x02, 0],
            &[0xba, 0x01, 8, 0x0a, 2, b'/', b'a', 0x12, 2, b'/', b'b'],
            &[0xda, 0x01, 12, 0x0a, 8],
            b"pipe:[7]",
            &[0x10, 1],
            &[0xb0, 0x02, 0x80, 0x80, 0x80, 0x80, 0x04],
        ]
        .concat();
        assert_eq!(request(Kind::Dump, &options), expected);
    }

    #[test]
    fn answers_are_understood() {
        let notify = [
            &[0x08, 6, 0x10, 1, 0x2a, 17, 0x0a, 12][..],
            b"post-restore",
            &[0x10, 0xd2, 0x09],
        ]
        .concat();
        let response = Response::decode(&notify).unwrap();
        assert!(response.success && response.kind == Kind::Notify as u64);
        assert_eq!(response.notify, Some(("post-restore".into(), Some(1234))));

        let failed = [&[0x08, 1, 0x10, 0, 0x38, 22, 0x4a, 2][..], b"no"].concat();
        let response = Response::decode(&failed).unwrap();
        assert_eq!((response.success, response.errno), (false, 22));
        assert_eq!(response.message.as_deref(), Some("no"));

        let features = Response::decode(&[0x08, 9, 0x10, 1, 0x42, 4, 0x08, 1, 0x10, 0]).unwrap();
        let expected = Features {
            mem_track: true,
            lazy_pages: false,
        };
        assert_eq!(features.features, Some(expected));

        let restored = Response::decode(&[0x08, 2, 0x10, 1, 0x22, 2, 0x08, 77]).unwrap();
        assert_eq!(restored.restored, Some(77));
    }

    #[test]
    fn versions_compare() {
        let decode = |version: &[u8]| {
            let mut bytes = vec![0x08, 10, 0x10, 1, 0x52, version.len() as u8];
            bytes.extend_from_slice(version);
            Response::decode(&bytes).unwrap().version.unwrap()
        };
        assert_eq!(decode(&[0x08, 3, 0x10, 17, 0x20, 1]), Version(31_701));
        assert_eq!(decode(&[0x08, 4, 0x10, 2]), Version(40_200));
        assert_eq!(
            decode(&[0x08, 3, 0x10, 14, 0x1a, 1, b'g', 0x20, 9]),
            Version(31_500)
        );
        assert_eq!(Version(31_701).to_string(), "3.17.1");
        assert_eq!(Version(40_200).to_string(), "4.2");
    }

    #[test]
    fn unknown_fields_are_skipped() {
        // Fields 90 (number), 91 (bytes), 92 (eight bytes), 93 (four bytes), then `success`.
        let bytes = [
            &[0xd0, 0x05, 7][..],
            &[0xda, 0x05, 2, 1, 2],
            &[0xe1, 0x05, 0, 0, 0, 0, 0, 0, 0, 0],
            &[0xed, 0x05, 0, 0, 0, 0],
            &[0x10, 1],
        ]
        .concat();
        assert!(Response::decode(&bytes).unwrap().success);
    }

    #[test]
    fn broken_answers_are_refused() {
        for bytes in [
            &[0x08][..],         // no value
            &[0x0a, 5, 1],       // shorter than it says
            &[0x0b],             // a group
            &[0xff; 11],         // an endless number
            &[0x2a, 2, 0x0a, 9], // broken inside
            &[
                0x0a, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01,
            ],
        ] {
            assert!(Response::decode(bytes).is_err(), "{bytes:?}");
        }
        // No input may panic.
        let mut state = 1u64;
        for _ in 0..20_000 {
            let bytes: Vec<u8> = (0..24)
                .map(|_| {
                    state = state
                        .wrapping_mul(6_364_136_223_846_793_005)
                        .wrapping_add(1);
                    (state >> 33) as u8
                })
                .collect();
            let _ = Response::decode(&bytes);
        }
    }
}
