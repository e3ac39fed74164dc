//! What a snapshot changes, taken from archives: a container that is to go on with the files that it had
//! somewhere else. Before it is mounted for the first time.

use std::fs::File;
use std::os::fd::AsFd;

use super::record::Form;
use super::store::Snapshot;
use crate::archive::Reader;
use crate::compress::decode_ahead;
use crate::layer::{Options, Unpacker};
use crate::{Context, Error, Result};

impl Snapshot {
    /// Unpacks archives of changes, compressed or not, one upon the other. They may be anybody's: they are
    /// read as layers are. After an error the snapshot is to be removed.
    pub fn fill(&self, archives: Vec<File>, options: &Options) -> Result<()> {
        self.unpack_into(archives, options)
            .context(|| format!("cannot fill snapshot {}", self.id()))
    }

    fn unpack_into(&self, archives: Vec<File>, options: &Options) -> Result<()> {
        if self.record().form != Form::Overlay {
            let text = "it is a copy of its layers: changes cannot be put into it";
            return Err(Error::unsupported(text));
        }
        let upper = self.upper()?;
        let options = Options {
            overlay: self.record().marks,
            ..options.clone()
        };
        let limits = options.inflate;
        let mut unpacker = Unpacker::new(upper.as_fd(), options)?;
        for archive in archives {
            decode_ahead(archive, limits, |ahead| {
                unpacker.unpack(&mut Reader::new(ahead).nameless())
            })?;
        }
        let done = unpacker.finish()?;
        if done.opaque_root {
            return Err(Error::unsupported(
                "they hide everything that is below, which a snapshot cannot",
            ));
        }
        if done.stand_ins {
            return Err(Error::unsupported(
                "the file system of the store cannot mark what is deleted",
            ));
        }
        let stack = self.stack()?;
        let lowers = stack.lowers();
        done.pending
            .settle(upper.as_fd(), &lowers, self.record().marks)
    }
}
