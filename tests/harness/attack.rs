//! Attackers and what they must not change: swapping threads, canary trees, fingerprints of the host.

use rustix::fs::{CWD, RenameFlags, renameat_with};
use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;

/// Exchanges two paths as fast as it can until dropped.
#[derive(Debug)]
pub(crate) struct Swapper {
    stop: Arc<AtomicBool>,
    count: Arc<AtomicU64>,
    thread: Option<JoinHandle<()>>,
}

impl Swapper {
    pub(crate) fn start(one: &Path, other: &Path) -> Self {
        let (stop, count) = (
            Arc::new(AtomicBool::new(false)),
            Arc::new(AtomicU64::new(0)),
        );
        let (one, other) = (one.to_owned(), other.to_owned());
        let (told, counted) = (Arc::clone(&stop), Arc::clone(&count));
        let thread = std::thread::spawn(move || {
            while !told.load(Ordering::Relaxed) {
                if renameat_with(CWD, &one, CWD, &other, RenameFlags::EXCHANGE).is_ok() {
                    counted.fetch_add(1, Ordering::Relaxed);
                }
            }
        });
        Self {
            stop,
            count,
            thread: Some(thread),
        }
    }

    /// How often it has exchanged: an attack that never happened proves nothing.
    pub(crate) fn count(&self) -> u64 {
        self.count.load(Ordering::Relaxed)
    }
}

impl Drop for Swapper {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// A tree outside every root file system, and what it looked like.
#[derive(Debug)]
pub(crate) struct Canary {
    pub(crate) path: PathBuf,
    before: BTreeMap<PathBuf, String>,
}

impl Canary {
    /// Files, directories and names that careless runtimes remove or fill.
    pub(crate) fn plant(path: &Path) -> Self {
        for dir in ["sub", "shm", "pts", "net"] {
            fs::create_dir_all(path.join(dir)).unwrap();
        }
        for file in [
            "HOST-MARKER",
            "ptmx",
            "null",
            "fd",
            "passwd",
            "sub/file",
            "console",
        ] {
            fs::write(path.join(file), format!("the host's {file}\n")).unwrap();
        }
        Self {
            path: path.to_owned(),
            before: fingerprint(path),
        }
    }

    #[track_caller]
    pub(crate) fn is_intact(&self) {
        let now = fingerprint(&self.path);
        assert!(
            now == self.before,
            "the host's tree changed:\nbefore {:#?}\nnow {now:#?}",
            self.before
        );
    }
}

/// Mode, owner, type and content of everything below a directory.
pub(crate) fn fingerprint(path: &Path) -> BTreeMap<PathBuf, String> {
    let mut found = BTreeMap::new();
    let mut open = vec![path.to_owned()];
    while let Some(path) = open.pop() {
        let Ok(data) = fs::symlink_metadata(&path) else {
            continue;
        };
        let content = if data.is_dir() {
            open.extend(
                fs::read_dir(&path)
                    .into_iter()
                    .flatten()
                    .flatten()
                    .map(|e| e.path()),
            );
            String::new()
        } else if data.is_file() {
            format!("{:?}", fs::read(&path).map(|bytes| digest(&bytes)))
        } else {
            format!("{:?}", fs::read_link(&path))
        };
        let what = format!(
            "{:o} {}:{} {} {content}",
            data.mode(),
            data.uid(),
            data.gid(),
            data.rdev()
        );
        found.insert(path, what);
    }
    found
}

/// FNV-1a with the length: enough to see a change, and no dependency.
pub(crate) fn digest(bytes: &[u8]) -> String {
    let hash = bytes.iter().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    });
    format!("{hash:016x}-{}", bytes.len())
}

/// The kernel's setting that an escape would write.
pub(crate) fn core_pattern() -> String {
    fs::read_to_string("/proc/sys/kernel/core_pattern").unwrap()
}
