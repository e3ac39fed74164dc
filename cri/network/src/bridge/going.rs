//! The way back. Most of the time that it takes is the kernel's, for a device, whose other users it waits for:
//! tens of milliseconds, in which nobody else has to wait for the records.
//!
//! So there are three parts: alone, the ports are taken away and the record says that the attachment is
//! going; with everybody else at work, the device; alone again, the record. Until then nobody gets the
//! address. The device is deleted by its number, which no other will have, so it does no harm if two do
//! this for one attachment.

use super::leases::{Lease, State};
use super::rules;
use super::{Bridge, Desk, Made, host, links, mapped};
use crate::netlink::Socket;
use crate::netlink::nft::Transaction;
use crate::request::Key;
use crate::{Context, Result};

/// An attachment whose ports are gone.
struct Going {
    lease: Lease,
    /// Its device, if it is still there.
    device: Option<u32>,
}

impl Bridge {
    /// Undoes [`Bridge::add`], however far it got.
    pub fn remove(&self, key: &Key) -> Result<()> {
        let failed = || format!("cannot disconnect {key} from {}", self.settings.name);
        let going = self.begin_removal(key).context(failed)?;
        if going.is_empty() {
            return Ok(());
        }
        for device in going.iter().filter_map(|one| one.device) {
            host::delete_at(&mut Socket::routing()?, device).context(failed)?;
        }
        let desk = self.enter().context(failed)?;
        let mut all = going.iter();
        all.try_for_each(|one| desk.place.forget(&one.lease))
            .context(failed)
    }

    fn begin_removal(&self, key: &Key) -> Result<Vec<Going>> {
        let mut desk = self.enter()?;
        let all = desk.place.leases()?;
        let own = all.iter().filter(|lease| lease.key == *key);
        own.map(|lease| desk.begin_removal(lease)).collect()
    }
}

impl Desk<'_> {
    fn begin_removal(&mut self, lease: &Lease) -> Result<Going> {
        self.take_ports(lease)?;
        let lease = self.place.mark(lease, State::Going)?;
        let name = links::host_name(self.settings, lease.slot);
        let device = host::link(&mut self.routing, &name)?.map(|link| link.index);
        Ok(Going { lease, device })
    }

    /// Undoes an attachment in one go, for who has to be alone anyway.
    pub(super) fn undo(&mut self, lease: &Lease) -> Result<()> {
        self.take_ports(lease)?;
        let name = links::host_name(self.settings, lease.slot);
        host::delete(&mut self.routing, &name)?;
        self.place.forget(lease)
    }

    /// Ports first, so that nothing is sent to an address that somebody else gets; with those of the last
    /// attachment all that nf_tables was told.
    fn take_ports(&mut self, lease: &Lease) -> Result<()> {
        let stays = |other: &Lease| other.key != lease.key && other.state != State::Going;
        if !self.place.leases()?.iter().any(stays) {
            return self.drop_table();
        }
        if !lease.ports || lease.state == State::Going {
            return Ok(());
        }
        let mut changes = Transaction::new(self.netfilter.batch(), &self.settings.table);
        let taken = match self.place.read(lease) {
            Ok(record) => {
                rules::remove(&mut changes, &mapped(lease, &record));
                self.transact(changes)?.is_ok()
            }
            Err(_) => false,
        };
        match self.place.host::<Made>() {
            // Some were missing: those of all others are written anew.
            Some(made) if !taken => self.rewrite(made, Some(lease)).map(|_| ()),
            _ => Ok(()),
        }
    }
}
