//! `rcrun build`: what the builder needs of the program. Base images come by the settings of the image
//! verbs, steps are run by a process of their own (`rcrun build-step`), and people see what happens.

pub(crate) mod bases;
pub(crate) mod places;
pub(crate) mod progress;
pub(crate) mod runner;
pub(crate) mod step;
mod stubs;
