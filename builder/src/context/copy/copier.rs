//! Copies one file, with all that it has.

use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::fs::{FileType, Mode};

use rcrun_overlay::archive::Time;
use rcrun_overlay::layer::attributes::{Attributes, Fresh, complete_file, complete_other};

use super::checksum::{unchanged, unchanged_name};
use super::contents::{self, Buffer, Ways};
use super::files::Meta;
use super::root::{create, replacing};
use super::{Options, Report, Selection, attributes};
use crate::Result;
use crate::context::open;
use crate::context::tree::Tree;
use crate::context::view;

pub(super) fn modified(meta: &Meta) -> Time {
    Time {
        seconds: meta.modified.0,
        nanoseconds: meta.modified.1,
    }
}

pub(super) fn attributes_of(
    selection: &Selection,
    options: Options,
    tree: &Tree,
    meta: &Meta,
    extended: Vec<rcrun_overlay::archive::Attribute>,
) -> Attributes {
    let (uid, gid) = selection.owner(tree, meta);
    Attributes {
        mode: selection.mode(meta),
        uid,
        gid,
        mtime: options.times.of_copy(modified(meta)),
        extended,
    }
}

/// Copies files of one source; shared by threads.
pub(super) struct Copier<'a> {
    pub(super) selection: &'a Selection,
    pub(super) options: Options,
    pub(super) tree: &'a Tree,
    pub(super) fresh: Fresh,
    pub(super) ways: &'a Ways,
    pub(super) bytes: AtomicU64,
    pub(super) skipped: AtomicU64,
}

impl<'a> Copier<'a> {
    pub(super) fn new(
        selection: &'a Selection,
        options: Options,
        tree: &'a Tree,
        fresh: Fresh,
        ways: &'a Ways,
    ) -> Self {
        Self {
            selection,
            options,
            tree,
            fresh,
            ways,
            bytes: AtomicU64::new(0),
            skipped: AtomicU64::new(0),
        }
    }

    pub(super) fn count(&self, report: &mut Report) {
        report.bytes += self.bytes.load(Ordering::Relaxed);
        report.skipped += self.skipped.load(Ordering::Relaxed);
    }

    pub(super) fn attributes(
        &self,
        meta: &Meta,
        extended: Vec<rcrun_overlay::archive::Attribute>,
    ) -> Attributes {
        attributes_of(self.selection, self.options, self.tree, meta, extended)
    }

    /// Copies anything but a directory.
    pub(super) fn file(
        &self,
        from: BorrowedFd<'_>,
        name: &[u8],
        to: BorrowedFd<'_>,
        new: &[u8],
        meta: &Meta,
        buffer: &mut Buffer,
    ) -> Result<()> {
        let kind = meta.kind();
        let mut skipped = 0;
        match kind {
            FileType::RegularFile => {
                let source = view::read(from, name)?;
                unchanged(&source, meta)?;
                let extended = attributes::of_open(source.as_fd())?;
                let attributes = self.attributes(meta, extended);
                let file = create(to, new, attributes.mode)?;
                contents::copy(&source, &file, meta, self.ways, buffer)?;
                unchanged(&source, meta)?;
                self.bytes.fetch_add(meta.size, Ordering::Relaxed);
                complete_file(file.as_fd(), &attributes, self.fresh, &mut skipped)?;
            }
            // A stub: the server behind it does not come along.
            FileType::Socket => {
                let attributes = self.attributes(meta, Vec::new());
                let file = create(to, new, attributes.mode)?;
                complete_file(file.as_fd(), &attributes, self.fresh, &mut skipped)?;
            }
            _ => {
                let extended = attributes::of_other(from, name, kind)?;
                let target = match kind {
                    FileType::Symlink => open::link(from, name)?,
                    _ => Vec::new(),
                };
                unchanged_name(from, name, meta)?;
                let attributes = self.attributes(meta, extended);
                let (link, mode) = (
                    kind == FileType::Symlink,
                    Mode::from(attributes.mode & 0o777),
                );
                replacing(to, new, || match link {
                    true => rustix::fs::symlinkat(&*target, to, new),
                    false => rustix::fs::mknodat(to, new, kind, mode, meta.number),
                })?;
                complete_other(to, new, &attributes, self.fresh, link, &mut skipped)?;
            }
        }
        self.skipped.fetch_add(skipped, Ordering::Relaxed);
        Ok(())
    }
}
