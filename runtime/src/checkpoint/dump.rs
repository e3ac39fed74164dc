//! `checkpoint`: a running container -> images.

use std::ffi::CString;
use std::os::fd::BorrowedFd;
use std::path::Path;

use rustix::fs::{FileType, Mode, OFlags};

use super::external::{self, bytes};
use super::images::{self, Directories};
use super::rpc::{Kind, Options, Version};
use super::swrk::{self, Criu, Failure, Start, Streams};
use super::{CheckpointOptions, PageServer};
use crate::cgroup::Hierarchy;
use crate::container::{Runtime, Status};
use crate::error::{Context, Error, ErrorKind, Result};
use crate::operations::caller::prove_single_threaded;
use crate::operations::query::{load, status_of};
use crate::operations::stop;
use crate::plan::{Facts, Plan};
use crate::rootfs::Root;
use crate::rootfs::resolve::Links;
use crate::state::{Directory, Record};

const LOG: &str = "dump.log";
/// The oldest criu that can use the freezer of cgroup v2.
const FREEZER_V2: Version = Version(31_400);
/// The oldest criu that says itself when it serves pages.
const STATUS_READY: Version = Version(31_500);

/// Saves a container.
pub(super) fn checkpoint(runtime: &Runtime, id: &str, options: &CheckpointOptions) -> Result<()> {
    if runtime.is_rootless() {
        tracing::warn!("rcrun checkpoint is untested with rootless containers");
    }
    let directory = Directory::open(&runtime.root, id)?;
    let lock = directory.lock()?;
    let record = load(&directory)?;
    let status = status_of(&directory, &record)?;
    if !matches!(status, Status::Running | Status::Paused) {
        let text = format!(
            "Container cannot be checkpointed in {} state",
            status.as_str()
        );
        return Err(Error::new(ErrorKind::FailedPrecondition, text));
    }
    let status_fd = options.status_fd.filter(|_| options.common.lazy_pages);
    let ready = status_fd.map(writable).transpose()?;
    let proof = prove_single_threaded()?;
    let mut criu = Criu::start(
        proof,
        &Start {
            program: options.common.criu.as_deref(),
            streams: Streams::Nothing,
            inherited: &[],
            root: None,
            cgroup_namespace: false,
            patience: None,
        },
        &mut |_| Ok(()),
    )?;
    let config = crate::spec::load::spec(&directory.read_config()?)?;
    let facts = Facts {
        bundle: &record.bundle,
        no_pivot: false,
        listen_fds: None,
        selinux: crate::spec::validate::selinux_enabled(),
    };
    let plan = Plan::from_spec(&config.spec, &facts)?;
    check_features(&mut criu, options)?;
    let places = Directories::open(&options.common, LOG)?;
    let mut request = common_request(&places, &record, &criu, options);
    request.external = external_namespaces(&plan, &criu)?;
    if !options.pre_dump {
        request.external_mounts = external_mounts(&plan, &record)?;
        places.write_descriptors(&streams(&record))?;
    }
    let kind = if options.pre_dump {
        Kind::PreDump
    } else {
        Kind::Dump
    };
    dump(criu, kind, request, ready).map_err(|failure| places.explain(failure))?;
    if !options.leave_running && !options.pre_dump {
        stop::kill_init(&record)?;
        stop::destroy(&directory, &record)?;
    }
    drop(lock);
    Ok(())
}

/// A descriptor of the caller's, and its number.
type Ready = (i32, BorrowedFd<'static>);

fn writable(number: i32) -> Result<Ready> {
    let text = || format!("invalid --status-fd argument {number}");
    let fd = crate::sys::process::borrow_inherited(number).context(text)?;
    let flags = rustix::fs::fcntl_getfl(fd).context(text)?;
    if flags & OFlags::ACCMODE == OFlags::RDONLY {
        return Err(Error::invalid(format!("{}: not writable", text())));
    }
    Ok((number, fd))
}

fn dump(criu: Criu, kind: Kind, mut request: Options, ready: Option<Ready>) -> Result<(), Failure> {
    // Before that version criu writes to the descriptor itself.
    let by_criu = criu.version < STATUS_READY;
    request.status_fd = ready.map(|(number, _)| number).filter(|_| by_criu);
    let mut ready = ready;
    criu.carry_out(kind, &request, &mut |script, _, _| {
        let due = by_criu || script == "status-ready";
        if let Some((number, fd)) = ready.take_if(|_| due) {
            if !by_criu {
                swrk::tell_ready(fd);
            }
            // Whoever waits for the end of the other side must not wait for the whole dump.
            swrk::close_inherited(number);
        }
        Ok(())
    })
}

fn common_request(
    places: &Directories,
    record: &Record,
    criu: &Criu,
    options: &CheckpointOptions,
) -> Options {
    let frozen_by_criu = record.cgroup.hierarchy == Hierarchy::Unified && criu.version < FREEZER_V2;
    let freezer = record
        .cgroup
        .controller("freezer")
        .filter(|_| !frozen_by_criu);
    let page_server = |server: &PageServer| (server.address.clone(), server.port);
    Options {
        pid: Some(record.pid),
        root: Some(bytes(&record.rootfs)),
        leave_running: options.leave_running,
        tcp_skip_in_flight: options.tcp_skip_in_flight,
        link_remap: options.link_remap,
        config_file: images::config_file(&record.annotations),
        freeze_cgroup: freezer.map(bytes),
        page_server: options.page_server.as_ref().map(page_server),
        parent_img: options.parent_path.as_deref().map(bytes),
        track_mem: options.parent_path.is_some(),
        ..places.options(&options.common, LOG)
    }
}

fn check_features(criu: &mut Criu, options: &CheckpointOptions) -> Result<()> {
    if !options.pre_dump && !options.common.lazy_pages {
        return Ok(());
    }
    let features = criu.features()?;
    for (wanted, there, name) in [
        (options.pre_dump, features.mem_track, "MemTrack"),
        (options.common.lazy_pages, features.lazy_pages, "LazyPages"),
    ] {
        if wanted && !there {
            return Err(Error::unsupported(format!(
                "criu is missing features: [{name}] (criu {} on this kernel)",
                criu.version
            )));
        }
    }
    Ok(())
}

/// Namespaces that the container did not make stay as they are: `TYPE[INODE]:KEY`.
fn external_namespaces(plan: &Plan, criu: &Criu) -> Result<Vec<String>> {
    let mut all = Vec::new();
    for join in &plan.namespaces.joins {
        let Some(key) = external::namespace_key(criu, join.name)? else {
            continue;
        };
        let stat = rustix::fs::stat(join.path.as_c_str())
            .context(|| format!("cannot stat {}", join.path.to_string_lossy()))?;
        let name = external::namespace_name(join.name);
        all.push(format!("{name}[{}]:{key}", stat.st_ino));
    }
    Ok(all)
}

/// On this side only the place matters; it is the key under which `restore` names the source.
fn external_mounts(plan: &Plan, record: &Record) -> Result<Vec<(Vec<u8>, Vec<u8>)>> {
    let view = external::cgroup_view(plan, &record.cgroup)?;
    // As the container has it: its root may be mounted nowhere else.
    let inside = std::path::PathBuf::from(format!("/proc/{}/root", record.pid));
    let resolve = |place: &Path| external::resolve(&inside, place);
    let mut pairs: Vec<_> = external::external_mounts(plan, &view, &resolve)
        .iter()
        .map(|external| (bytes(&external.place), bytes(&external.place)))
        .collect();
    let path = format!("/proc/{}/root", record.pid);
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let root = rustix::fs::open(&path, flags, Mode::empty())
        .map(Root::new)
        .context(|| format!("cannot open {path}"))?;
    let masked = plan
        .masked
        .iter()
        .filter(|path| is_masked_file(&root, path));
    pairs.extend(masked.map(|path| (path.to_bytes().to_vec(), b"/dev/null".to_vec())));
    Ok(pairs)
}

/// A masked file is covered by the host's /dev/null; a directory by a tmpfs, which criu can make.
fn is_masked_file(root: &Root, path: &CString) -> bool {
    let stat = root
        .open(path, OFlags::PATH | OFlags::CLOEXEC, Links::Follow)
        .and_then(rustix::fs::fstat);
    stat.is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode) != FileType::Directory)
}

/// The streams that the container was given, or, where they were no pipes, those its init has now.
fn streams(record: &Record) -> Vec<String> {
    let mut names = external::streams_of(&record.pid.to_string());
    for (name, given) in names.iter_mut().zip(&record.descriptors) {
        if given.starts_with("pipe:") {
            name.clone_from(given);
        }
    }
    names
}
