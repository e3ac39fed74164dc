//! Layer archives: tar as it really occurs, read from strangers and written for them.
//!
//! Owns the format: headers of all dialects, PAX records, sparse maps, the `.wh.` names of the
//! image specification ("Representing Changes", layer.md) and every limit. It does not touch a file
//! system; [`crate::layer`] does.
//!
//! Header layouts and the writer are the `tar` crate's. Its iterator is not used: it buffers
//! extended headers of any size, splits PAX records at newlines that belong to binary values, and
//! what it makes of a contradictory archive is not what GNU tar makes of it. Here an archive means
//! what GNU tar, bsdtar and Python's tarfile agree on, or it is refused.

#[cfg(test)]
mod corpus;
#[cfg(test)]
mod corpus_archives;
mod fields;
pub mod limits;
pub mod name;
pub mod pax;
pub mod read;
pub mod sparse;
pub mod whiteout;
pub mod write;

pub use read::{Entry, Kind, Reader, Time};
pub use write::Writer;

/// An extended attribute: name and value.
pub type Attribute = (Box<[u8]>, Box<[u8]>);

/// Whether one of our readers made this error.
pub fn is_ours(error: &std::io::Error) -> bool {
    error
        .get_ref()
        .and_then(|inner| inner.downcast_ref::<crate::Error>())
        .is_some()
}

/// An error of a reader: the one inside if it is ours, with its own kind.
pub fn from_io(error: std::io::Error) -> crate::Error {
    if !is_ours(&error) {
        return error.into();
    }
    let inner = error.into_inner().and_then(|inner| inner.downcast().ok());
    inner.map_or_else(
        || crate::Error::new(crate::ErrorKind::Internal, "cannot read an archive"),
        |inner| *inner,
    )
}
