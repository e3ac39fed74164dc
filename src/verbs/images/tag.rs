//! `rcrun tag` and `rcrun untag`.

use rcrun_image::catalog::{Meant, no_such_image};
use rcrun_image::document::Descriptor;
use rcrun_image::names::{Names, Record};
use rcrun_image::reference::Reference;
use rcrun_overlay::lease::{Lease, Root};
use rcrun_overlay::store::Store;
use rcrun_runtime::error::{Error, ErrorKind, Result};

use crate::settings::Settings;
use crate::{images, output, report};

/// give an image another name
#[derive(Debug, clap::Parser)]
#[command(name = "tag", disable_help_flag = true)]
pub(crate) struct Tag {
    #[arg(required = true)]
    image: String,
    #[arg(required = true)]
    name: Reference,
}

impl crate::verbs::Run for Tag {
    fn run(self, settings: &Settings) -> Result<u8> {
        if self.name.digest().is_some() {
            return Err(Error::invalid(format!(
                "cannot tag {}: a name with a digest cannot be given to another image",
                self.name
            )));
        }
        let store = settings.store()?;
        let lease = store.lease()?;
        let target = held(&store, &lease, &self.image)?;
        let names = Names::new(&store)?;
        if let Some(old) = names.get(&self.name)?.filter(|old| old.target != target) {
            names.keep(&lease, &old)?;
        }
        names.set(&lease, &self.name, &target)?;
        Ok(0)
    }
}

/// How often a name is read again that changes all the time.
const TRIES: usize = 8;

/// What an image's new name is to stand for, held by the lease.
fn held(store: &Store, lease: &Lease, image: &str) -> Result<Descriptor> {
    let names = Names::new(store)?;
    for _ in 0..TRIES {
        let users = images::users(store)?;
        let catalog = images::catalog(store, &users)?;
        let (target, record): (Descriptor, Option<Record>) = match catalog.find(image)? {
            Meant::Name(record, _) => (record.target.clone(), Some(record.clone())),
            Meant::Image(listed) => match listed.names.first() {
                // An identifier of what a name means here stands for all that the name does.
                Some(record) if listed.meant => (record.target.clone(), Some(record.clone())),
                other => (listed.image.manifest.clone(), other.cloned()),
            },
        };
        lease.hold(&[Root::Image(target.digest.clone())])?;
        // Before it was held, it may have been removed and swept: what referred to it then has to
        // refer to it still.
        let vouched = match record {
            Some(record) => names.get(&record.reference()?)?.as_ref() == Some(&record),
            None => {
                let uses = |user: &images::User| user.manifest.as_ref() == Some(&target.digest);
                images::users(store)?.iter().any(uses)
            }
        };
        if vouched {
            return Ok(target);
        }
    }
    Err(Error::new(
        ErrorKind::Busy,
        format!("cannot tag {image}: others change it all the time"),
    ))
}

/// remove names from images, which stay until they are pruned
#[derive(Debug, clap::Parser)]
#[command(name = "untag", disable_help_flag = true)]
pub(crate) struct Untag {
    #[arg(required = true)]
    names: Vec<Reference>,
}

impl crate::verbs::Run for Untag {
    fn run(self, settings: &Settings) -> Result<u8> {
        let store = settings.store()?;
        let lease = store.lease()?;
        let names = Names::new(&store)?;
        report::each(&self.names, |name| {
            let Some(record) = names.get(name)? else {
                return Err(no_such_image(&name.familiar()));
            };
            if name.tag().is_none() {
                let text = name.familiar();
                return Err(Error::invalid(format!("{text} has no tag to be removed"))
                    .with_hint(format!("`rcrun rmi {text}` removes the image")));
            }
            names.keep(&lease, &record)?;
            names.remove(name)?;
            output::print(&format!("Untagged: {}\n", name.familiar()))
        })?;
        Ok(0)
    }
}
