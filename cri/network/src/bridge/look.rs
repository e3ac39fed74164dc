//! What can be seen of attachments without keeping anybody waiting: their records are whole at every moment.

use std::path::Path;

use super::leases::{Lease, Place, Record};
use super::{Bridge, Desk, Made, State, host, links, listens};
use crate::outcome::Outcome;
use crate::ports::{But, conflict};
use crate::request::{Key, Port};
use crate::{Error, ErrorKind, Result};

/// An attachment, as its record has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attached {
    /// Ports of the host that lead to it.
    pub ports: Vec<Port>,
    /// What the namespace got.
    pub outcome: Outcome,
}

impl Bridge {
    /// The bridge whose records are in a directory, with the settings that it was made with; none if there
    /// never was one.
    pub fn existing(directory: &Path) -> Result<Option<Self>> {
        let Some(place) = Place::look(directory)? else {
            return Ok(None);
        };
        match place.host::<Made>() {
            Some(made) => Self::new(made.settings, directory).map(Some),
            // Nothing is known of it; what there is is removed by the names that are usual.
            None if place.leases()?.is_empty() => Ok(None),
            None => Err(Error::new(
                ErrorKind::Corrupt,
                format!("cannot read {}/host.json", directory.display()),
            )),
        }
    }

    /// An attachment that is complete; none if there is none.
    pub fn attached(&self, key: &Key) -> Result<Option<Attached>> {
        let Some(place) = Place::look(&self.directory)? else {
            return Ok(None);
        };
        let all = place.leases()?;
        let ready = |lease: &&Lease| lease.key == *key && lease.state == State::Ready;
        match all.iter().find(ready).map(|lease| place.read(lease)) {
            None => Ok(None),
            Some(Ok(record)) => Ok(Some(record.into())),
            // Removed since.
            Some(Err(error)) if error.kind() == ErrorKind::NotFound => Ok(None),
            Some(Err(error)) => Err(error),
        }
    }

    /// Whether anything is known of an attachment, complete or not, for who alone may change it.
    pub fn knows(&self, key: &Key) -> Result<bool> {
        let Some(place) = Place::look(&self.directory)? else {
            return Ok(false);
        };
        Ok(place.leases()?.iter().any(|lease| lease.key == *key))
    }

    /// Whether a port of the host seems to be free: neither an attachment nor a program has it. Only
    /// [`Bridge::add`] makes sure.
    pub fn is_free(&self, port: &Port) -> Result<bool> {
        let wanted = std::slice::from_ref(port);
        let taken = match &self.ports {
            Some(ports) => match ports.refuse_taken(wanted, But::Nobody, false) {
                Err(error) if error.kind() == ErrorKind::Exists => true,
                done => done.map(|()| false)?,
            },
            None => holder_of(&self.directory, wanted, false)?.is_some(),
        };
        Ok(!taken && !listens(port))
    }

    /// Removes attachments whose namespace is gone without anybody having said so. How many.
    pub fn collect_dead(&self) -> Result<usize> {
        if Place::look(&self.directory)?.is_none() {
            return Ok(0);
        }
        self.enter()?.collect_dead()
    }
}

/// Who has one of these ports, of all whose records are in a directory; `alone`: nobody changes them meanwhile.
pub(crate) fn holder_of(
    directory: &Path,
    ports: &[Port],
    alone: bool,
) -> Result<Option<(Port, Key)>> {
    let place = match alone {
        true => Place::look_alone(directory)?,
        false => Place::look(directory)?,
    };
    match place {
        Some(place) => place.holder(ports),
        None => Ok(None),
    }
}

impl Place {
    /// Who has one of these ports.
    pub(super) fn holder(&self, ports: &[Port]) -> Result<Option<(Port, Key)>> {
        for lease in self.leases()?.iter().filter(|lease| lease.has_ports()) {
            // A record that is damaged costs its ports, not those of others.
            let Ok(record) = self.read(lease) else {
                continue;
            };
            if let Some(port) = conflict(&record.ports, ports) {
                return Ok(Some((*port, lease.key.clone())));
            }
        }
        Ok(None)
    }
}

impl Desk<'_> {
    /// A pair of devices goes with either of its ends: without its end here, an attachment that was
    /// completed has no namespace any more.
    fn collect_dead(&mut self) -> Result<usize> {
        let mut removed = 0;
        for lease in self.place.leases()? {
            let name = links::host_name(self.settings, lease.slot);
            if lease.state != State::Begun && host::link(&mut self.routing, &name)?.is_none() {
                self.undo(&lease)?;
                removed += 1;
            }
        }
        Ok(removed)
    }
}

impl From<Record> for Attached {
    fn from(record: Record) -> Self {
        let Record { ports, outcome, .. } = record;
        Self { ports, outcome }
    }
}
