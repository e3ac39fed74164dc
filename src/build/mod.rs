//! `rcrun build`: what the builder needs of the program. Base images come by the settings of the image
//! verbs, steps are run by a process of their own (`rcrun build-step`), and people see what happens.

mod agents;
mod annotations;
mod arguments;
mod asked;
mod attempt;
mod attest;
mod bases;
mod caches;
mod call;
mod check;
mod contexts;
mod destination;
mod epoch;
mod failure;
mod files;
pub(crate) mod job;
mod outputs;
mod places;
mod progress;
mod repository;
mod result;
mod runner;
pub(crate) mod step;
mod stubs;
