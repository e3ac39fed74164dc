//! An archive that arrives: every member goes to the store or to memory as it comes, since what it
//! is needed for may be said at the end.
//!
//! Blobs are hashed while they are written and have no name in the store until something wants them:
//! an archive that turns out to be wrong leaves nothing. Only where there are more of them than
//! [`HELD`], or more documents than [`DOCUMENT_BYTES`], do they become visible before; then they are
//! unreferenced, and swept. A member is named by a stranger: names are only looked up in a table.

use std::collections::HashMap;
use std::io::{BufReader, Read};

use rcrun_overlay::archive::{Entry, Kind, Reader, name};
use rcrun_overlay::compress::{Compression, Decoder, Limits, sniff};
use rcrun_overlay::content::{
    Claim, Content, Expected, Ingest, Outcome, Piece, Verified, commit_all,
};
use rcrun_overlay::digest::Algorithm;
use rcrun_overlay::lease::{Lease, Root};

use crate::document::{Descriptor, MAX_DOCUMENT};
use crate::layout::{BLOBS, INDEX, MARK};
use crate::progress::{Event, Watch};
use crate::registry::retry::Cancel;
use crate::{Context, Digest, Error, ErrorKind, Result};

/// Docker's table of contents.
pub(crate) const MANIFEST: &str = "manifest.json";
/// Members of an archive.
pub(crate) const MEMBERS: u64 = 65_536;
/// Blobs that are held open before it is known what they are for.
const HELD: usize = 256;
/// Bytes of documents that are kept in memory before it is known what they are for.
const DOCUMENT_BYTES: usize = 16 << 20;
/// Links to links to layers.
const LINKS: usize = 8;
/// Bytes that are read at once.
const BUFFER: usize = 256 << 10;

/// A member that is a blob.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Member {
    pub(crate) digest: Digest,
    pub(crate) size: u64,
    pub(crate) compression: Option<Compression>,
}

#[derive(Debug)]
enum Found {
    Blob(Member),
    /// A symbolic link to a path, as far as it makes sense.
    Link(Option<Vec<u8>>),
}

/// What came with an archive.
#[derive(Debug)]
pub(crate) struct Arrived {
    content: Content,
    lease: Lease,
    members: HashMap<Vec<u8>, Found>,
    /// The files that say what is in the archive.
    tables: HashMap<&'static str, Vec<u8>>,
    documents: HashMap<Digest, Vec<u8>>,
    document_bytes: usize,
    held: HashMap<Digest, Verified>,
}

/// Takes a whole archive, compressed or not.
pub(crate) fn receive(
    source: &mut (dyn Read + Send),
    content: &Content,
    lease: &Lease,
    watch: Watch<'_>,
    cancel: &Cancel,
) -> Result<Arrived> {
    let decoder = Decoder::new(source, Limits::default())?;
    let mut reader = Reader::new(BufReader::with_capacity(BUFFER, decoder));
    reader.limit_entries(MEMBERS);
    let mut arrived = Arrived {
        content: content.clone(),
        lease: lease.clone(),
        members: HashMap::new(),
        tables: HashMap::new(),
        documents: HashMap::new(),
        document_bytes: 0,
        held: HashMap::new(),
    };
    while let Some(entry) = reader.next_entry()? {
        cancel.check()?;
        let mut data = Data {
            reader: &mut reader,
            watch,
            cancel,
        };
        arrived
            .take(&entry, &mut data)
            .context(|| format!("cannot read {} of the archive", name::show(&entry.path)))?;
    }
    // A compressed stream is right only when it was read to its end.
    let mut rest = reader.into_inner();
    std::io::copy(&mut rest, &mut std::io::sink()).map_err(rcrun_overlay::archive::from_io)?;
    Ok(arrived)
}

/// The data of a member.
struct Data<'a, R> {
    reader: &'a mut Reader<R>,
    watch: Watch<'a>,
    cancel: &'a Cancel,
}

impl<R: std::io::BufRead> Data<'_, R> {
    /// All of it, at most so much.
    fn whole(&mut self, size: u64) -> Result<Vec<u8>> {
        let mut bytes = Vec::new();
        crate::document::check_size(usize::try_from(size).unwrap_or(usize::MAX))?;
        loop {
            let chunk = self.reader.data()?;
            let length = chunk.len();
            if length == 0 {
                return Ok(bytes);
            }
            bytes.extend_from_slice(chunk);
            self.reader.consume(length);
        }
    }

    /// All of it, to a blob. Says how it begins.
    fn write(&mut self, mut piece: Option<Piece>, digest: Option<&Digest>) -> Result<Vec<u8>> {
        let mut first = Vec::new();
        let mut total = 0;
        loop {
            self.cancel.check()?;
            let chunk = self.reader.data()?;
            let length = chunk.len();
            if length == 0 {
                return Ok(first);
            }
            if first.len() < sniff::SNIFFED {
                let more = length.min(sniff::SNIFFED - first.len());
                first.extend_from_slice(&chunk[..more]);
            }
            if let Some(piece) = &mut piece {
                piece.write(chunk)?;
            }
            total += length as u64;
            self.reader.consume(length);
            if let Some(digest) = digest {
                (self.watch)(Event::Received(digest.clone(), total));
            }
        }
    }
}

impl Arrived {
    /// The file that says what is in the archive.
    pub(crate) fn table(&self, name: &str) -> Option<&[u8]> {
        self.tables.get(name).map(Vec::as_slice)
    }

    /// A member by its path, through links.
    pub(crate) fn member(&self, path: &str) -> Result<&Member> {
        let wrong = |why: &str| {
            let path = name::show(path.as_bytes());
            Err(Error::invalid(format!(
                "member {path} of the archive {why}"
            )))
        };
        let mut at = name::normalise(path.as_bytes())?;
        for _ in 0..=LINKS {
            match self.members.get(&at) {
                Some(Found::Blob(member)) => return Ok(member),
                Some(Found::Link(Some(target))) => at.clone_from(target),
                Some(Found::Link(None)) => return wrong("is a link that leads out of it"),
                None => return wrong("is missing"),
            }
        }
        wrong("is a link to too many others")
    }

    /// A small blob; none if there is none.
    pub(crate) fn document(&self, digest: &Digest) -> Result<Option<Vec<u8>>> {
        match self.documents.get(digest) {
            Some(bytes) => Ok(Some(bytes.clone())),
            None => {
                self.lease.hold(&[Root::Blob(digest.clone())])?;
                self.content.read(digest, MAX_DOCUMENT as u64)
            }
        }
    }

    /// Whether a blob is there.
    pub(crate) fn has(&self, blob: &Descriptor) -> Result<bool> {
        let digest = &blob.digest;
        let size = match (self.documents.get(digest), self.held.get(digest)) {
            (Some(bytes), _) => bytes.len() as u64,
            (_, Some(held)) => held.size(),
            _ => {
                self.lease.hold(&[Root::Blob(digest.clone())])?;
                return crate::stored::has(&self.content, blob);
            }
        };
        if size == blob.size {
            return Ok(true);
        }
        let message = format!("blob {digest} has {size} bytes, not {}", blob.size);
        Err(Error::new(ErrorKind::Corrupt, message))
    }

    /// Makes these blobs durable and visible.
    pub(crate) fn bring(&mut self, blobs: &[Descriptor], watch: Watch<'_>) -> Result<()> {
        let mut whole = Vec::new();
        for blob in blobs {
            let digest = &blob.digest;
            if let Some(held) = self.held.remove(digest) {
                whole.push(held);
            } else if let Some(bytes) = self.documents.get(digest)
                && !self.content.contains(digest)?
            {
                let algorithm = digest.algorithm();
                whole.push(self.content.prepare(&self.lease, algorithm, bytes)?);
            }
        }
        commit_all(whole)?;
        for blob in blobs {
            watch(Event::Fetched(blob.digest.clone()));
        }
        Ok(())
    }

    fn take<R: std::io::BufRead>(&mut self, entry: &Entry, data: &mut Data<'_, R>) -> Result<()> {
        let found = match &entry.kind {
            Kind::Directory => return Ok(()),
            Kind::Symlink(target) => Found::Link(resolve(name::split(&entry.path).0, target)),
            Kind::Hardlink(target) => Found::Link(resolve(b"", target)),
            Kind::Regular if entry.map.is_none() => match self.file(entry, data)? {
                Some(member) => Found::Blob(member),
                None => return Ok(()),
            },
            _ => return Err(Error::invalid("neither a file nor a link to one")),
        };
        match self.members.insert(entry.path.clone(), found) {
            None => Ok(()),
            Some(_) => Err(twice()),
        }
    }

    fn file<R: std::io::BufRead>(
        &mut self,
        entry: &Entry,
        data: &mut Data<'_, R>,
    ) -> Result<Option<Member>> {
        let path = String::from_utf8_lossy(&entry.path);
        if let Some(table) = [INDEX, MANIFEST, MARK].iter().find(|name| **name == path) {
            let bytes = data.whole(entry.size)?;
            return match self.tables.insert(table, bytes) {
                None => Ok(None),
                Some(_) => Err(twice()),
            };
        }
        // What docker wrote for programs before 2016.
        let last = name::split(&entry.path).1;
        if path == "repositories" || matches!(last, b"VERSION" | b"json") {
            return Ok(None);
        }
        let digest = match path
            .strip_prefix(BLOBS)
            .and_then(|rest| rest.strip_prefix('/'))
        {
            // What is called otherwise is no blob of a layout.
            Some(rest) => match rest.replacen('/', ":", 1).parse::<Digest>() {
                Ok(digest) => Some(digest),
                Err(_) => return Ok(None),
            },
            None => None,
        };
        let member = match digest {
            Some(digest) => self.named(digest, entry, data)?,
            None => self.nameless(None, entry, data)?,
        };
        Ok(Some(member))
    }

    /// A member that says its digest.
    fn named<R: std::io::BufRead>(
        &mut self,
        digest: Digest,
        entry: &Entry,
        data: &mut Data<'_, R>,
    ) -> Result<Member> {
        self.lease.hold(&[Root::Blob(digest.clone())])?;
        let there = self
            .content
            .open(&digest)?
            .filter(|blob| blob.size() == entry.size);
        if there.is_some() {
            // Nobody looks at what came instead.
            let first = data.write(None, None)?;
            (data.watch)(Event::Exists(digest.clone()));
            return Ok(Member {
                digest,
                size: entry.size,
                compression: sniff::sniff(&first).ok(),
            });
        }
        if digest.algorithm() == Algorithm::Sha256 {
            return self.nameless(Some(&digest), entry, data);
        }
        let expected = Expected {
            digest: digest.clone(),
            size: Some(entry.size),
        };
        let cancel = data.cancel;
        let mut waiting = |_| cancel.check();
        let mut claim = self.content.ingest(&self.lease, &expected, &mut waiting)?;
        if let Claim::Mine(ingest) = claim {
            // What an earlier attempt left may be anything: begin anew.
            ingest.discard();
            claim = self.content.ingest(&self.lease, &expected, &mut waiting)?;
        }
        let piece = match &claim {
            Claim::Present(_) => None,
            Claim::Mine(ingest) => ingest.claim(u64::MAX),
        };
        let first = data.write(piece, Some(&digest))?;
        if let Claim::Mine(ingest) = claim {
            ingest.commit()?;
        }
        Ok(Member {
            digest,
            size: entry.size,
            compression: sniff::sniff(&first).ok(),
        })
    }

    /// A member that is known when it was hashed, and must then be `wanted` if that is said.
    fn nameless<R: std::io::BufRead>(
        &mut self,
        wanted: Option<&Digest>,
        entry: &Entry,
        data: &mut Data<'_, R>,
    ) -> Result<Member> {
        if entry.size <= MAX_DOCUMENT as u64 {
            let bytes = data.whole(entry.size)?;
            if bytes.first() == Some(&b'{') {
                let digest = Digest::of(&bytes);
                check(wanted, &digest)?;
                self.keep(digest.clone(), bytes)?;
                return Ok(Member {
                    digest,
                    size: entry.size,
                    compression: Some(Compression::None),
                });
            }
            let ingest = self.content.receive(&self.lease)?;
            if let Some(mut piece) = ingest.claim(u64::MAX) {
                piece.write(&bytes)?;
            }
            let first = &bytes[..bytes.len().min(sniff::SNIFFED)];
            return self.hold(wanted, ingest, first);
        }
        let ingest = self.content.receive(&self.lease)?;
        let first = data.write(ingest.claim(u64::MAX), wanted)?;
        self.hold(wanted, ingest, &first)
    }

    fn hold(&mut self, wanted: Option<&Digest>, ingest: Ingest, first: &[u8]) -> Result<Member> {
        let verified = match ingest.verify()? {
            Outcome::Whole(verified) => verified,
            Outcome::Mismatch(mismatch) => return Err(mismatch.error),
        };
        check(wanted, verified.digest())?;
        let member = Member {
            digest: verified.digest().clone(),
            size: verified.size(),
            compression: sniff::sniff(first).ok(),
        };
        if self.held.len() >= HELD {
            commit_all(self.held.drain().map(|(_, held)| held).collect())?;
        }
        self.held.insert(member.digest.clone(), verified);
        Ok(member)
    }

    fn keep(&mut self, digest: Digest, bytes: Vec<u8>) -> Result<()> {
        if self.document_bytes + bytes.len() > DOCUMENT_BYTES {
            let mut whole = Vec::with_capacity(self.documents.len());
            for (digest, bytes) in self.documents.drain() {
                let algorithm = digest.algorithm();
                whole.push(self.content.prepare(&self.lease, algorithm, &bytes)?);
            }
            commit_all(whole)?;
            self.document_bytes = 0;
        }
        self.document_bytes += bytes.len();
        self.documents.insert(digest, bytes);
        Ok(())
    }
}

fn twice() -> Error {
    Error::invalid("it is there twice, and readers disagree which one counts")
}

fn check(wanted: Option<&Digest>, found: &Digest) -> Result<()> {
    match wanted {
        Some(wanted) if wanted != found => Err(Error::new(
            ErrorKind::Corrupt,
            format!("its bytes have digest {found}"),
        )),
        _ => Ok(()),
    }
}

/// What a link in a directory of the archive means; none if it leads out of it.
fn resolve(parent: &[u8], target: &[u8]) -> Option<Vec<u8>> {
    if target.starts_with(b"/") {
        return None;
    }
    let mut path = parent.to_vec();
    for part in target.split(|byte| *byte == b'/') {
        match part {
            b"" | b"." => {}
            b".." if path.is_empty() => return None,
            b".." => path = name::split(&path).0.to_vec(),
            _ => path = name::join(&path, part),
        }
    }
    Some(path)
}
