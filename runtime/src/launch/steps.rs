//! The steps of the container's init; their order is [`super::init`]'s. The names serve the
//! child (which one failed), the parent (what to say) and whoever reads `--debug` output.

/// A step of the container's init, or of the process of `exec`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Step {
    /// Wait for the parent.
    Wait = 0,
    /// Move itself into its v1 cgroups.
    JoinCgroup,
    /// Enter existing namespaces.
    JoinNamespaces,
    /// Make the init (intermediate process only).
    Clone,
    /// Become root of the user namespace.
    BecomeRoot,
    /// A session of its own.
    Session,
    /// New cgroup namespace.
    CgroupNamespace,
    /// New time namespace with its offsets.
    TimeNamespace,
    /// New session keyring.
    Keyring,
    /// Loopback interface.
    Loopback,
    /// Host name and domain name.
    HostName,
    /// The root becomes a mount of its own.
    Root,
    /// `mounts`.
    Mounts,
    /// Device nodes and links.
    Devices,
    /// The working directory is made if missing.
    WorkingDirectory,
    /// createContainer hooks.
    CreateContainerHooks,
    /// The root file system becomes the root.
    Pivot,
    /// The terminal.
    Console,
    /// `sysctl`.
    Sysctl,
    /// Read-only root, read-only and masked paths, propagation of the root.
    Protect,
    /// Change to the working directory.
    ChangeDirectory,
    /// Personality, memory policy.
    Personality,
    /// Scheduling class, input/output priority, processors.
    Scheduling,
    /// AppArmor profile, SELinux label.
    Labels,
    /// no_new_privs.
    NoNewPrivileges,
    /// Resource limits.
    Limits,
    /// User, groups, umask.
    Identity,
    /// Capability sets.
    Capabilities,
    /// Look for the program.
    FindProgram,
    /// The init stays, and the program is its child.
    Split,
    /// seccomp filter.
    Seccomp,
    /// startContainer hooks.
    StartContainerHooks,
    /// execve.
    Exec,
}

impl Step {
    /// All, by number.
    pub(crate) const ALL: [Self; 33] = [
        Self::Wait,
        Self::JoinCgroup,
        Self::JoinNamespaces,
        Self::Clone,
        Self::BecomeRoot,
        Self::Session,
        Self::CgroupNamespace,
        Self::TimeNamespace,
        Self::Keyring,
        Self::Loopback,
        Self::HostName,
        Self::Root,
        Self::Mounts,
        Self::Devices,
        Self::WorkingDirectory,
        Self::CreateContainerHooks,
        Self::Pivot,
        Self::Console,
        Self::Sysctl,
        Self::Protect,
        Self::ChangeDirectory,
        Self::Personality,
        Self::Scheduling,
        Self::Labels,
        Self::NoNewPrivileges,
        Self::Limits,
        Self::Identity,
        Self::Capabilities,
        Self::FindProgram,
        Self::Split,
        Self::Seccomp,
        Self::StartContainerHooks,
        Self::Exec,
    ];
}
