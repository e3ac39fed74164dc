//! stub
use crate::*;
/// x
#[derive(Debug)]
pub struct Plugins;
impl Plugins {
    pub(crate) fn add(&self, _: &Request<'_>) -> Result<Outcome> { Err(Error::invalid("x")) }
    pub(crate) fn check(&self, _: &Request<'_>) -> Result<()> { Err(Error::invalid("x")) }
    pub(crate) fn remove(&self, _: &Key, _: Option<&Namespace<'_>>) -> Result<()> { Err(Error::invalid("x")) }
    pub(crate) fn collect(&self, _: &[Key]) -> Result<()> { Err(Error::invalid("x")) }
    pub(crate) fn readiness(&self) -> Readiness { Readiness::ready() }
}
