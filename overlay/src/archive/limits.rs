//! What an archive may ask of us. Each is far above what images have and far below what hurts.

/// Extended headers of one entry together: PAX records, long names, sparse maps of PAX 0.x.
pub const HEADER_BYTES: u64 = 1 << 20;

/// A path and the target of a link: PATH_MAX of Linux without its NUL.
pub const PATH_BYTES: usize = 4095;

/// Entries of one archive.
pub const ENTRIES: u64 = 8_000_000;

/// Pieces of a sparse file.
pub const SPARSE_PIECES: usize = 1 << 17;

/// Size of a sparse file, holes included: the largest file of ext4 with 4 KiB blocks.
pub const SPARSE_SIZE: u64 = 16 << 40;

/// Name of an extended attribute: XATTR_NAME_MAX of Linux.
pub const ATTRIBUTE_NAME: usize = 255;

/// Value of an extended attribute: XATTR_SIZE_MAX of Linux.
pub const ATTRIBUTE_VALUE: usize = 1 << 16;

/// What is remembered about directories, links and devices until a layer is complete.
pub const REMEMBERED_BYTES: usize = 256 << 20;
