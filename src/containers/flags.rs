//! The flags of `run IMAGE` as they are written. What they mean is decided in `spec`.

/// What a container is to be, beyond what its image says.
#[derive(Debug, Default, Clone, clap::Args)]
pub(crate) struct ContainerFlags {
    /// name of the container (default: made up)
    #[arg(long, value_name = "NAME")]
    pub(crate) name: Option<String>,
    /// keep standard input open
    #[arg(long, short)]
    pub(crate) interactive: bool,
    /// give the container a terminal
    #[arg(long, short)]
    pub(crate) tty: bool,
    /// remove the container when it ends
    #[arg(long)]
    pub(crate) rm: bool,
    /// run a tiny init that forwards signals and reaps processes
    #[arg(long)]
    pub(crate) init: bool,
    /// replace the image's entrypoint ('' clears it)
    #[arg(long, value_name = "PROGRAM")]
    pub(crate) entrypoint: Option<String>,
    /// user or uid, and group or gid after a colon
    #[arg(long, short, value_name = "USER[:GROUP]")]
    pub(crate) user: Option<String>,
    /// additional group, by name of the image or number
    #[arg(long, value_name = "GROUP")]
    pub(crate) group_add: Vec<String>,
    /// working directory
    #[arg(long, short, value_name = "DIR")]
    pub(crate) workdir: Option<String>,
    /// set a variable; without a value it is taken from rcrun's own environment
    #[arg(long, short, value_name = "NAME[=VALUE]")]
    pub(crate) env: Vec<String>,
    /// file with variables, one in a line
    #[arg(long, value_name = "FILE")]
    pub(crate) env_file: Vec<String>,
    /// label of the container
    #[arg(long, short, value_name = "NAME[=VALUE]")]
    pub(crate) label: Vec<String>,
    /// file with labels, one in a line
    #[arg(long, value_name = "FILE")]
    pub(crate) label_file: Vec<String>,
    /// annotation of the OCI configuration
    #[arg(long, value_name = "NAME=VALUE")]
    pub(crate) annotation: Vec<String>,
    /// signal that asks the container to end (default: the image's, or SIGTERM)
    #[arg(long, value_name = "SIGNAL")]
    pub(crate) stop_signal: Option<String>,
    /// seconds until it is killed instead (default: the image's, or 10; -1: never)
    #[arg(long, value_name = "SECONDS", allow_hyphen_values = true)]
    pub(crate) stop_timeout: Option<String>,

    /// bind a directory or file that exists: HOST:CONTAINER[:ro,rw,z,Z,rshared,...], or use a volume,
    /// which is made if there is none: NAME:CONTAINER[:ro,rw,nocopy], without a name just CONTAINER
    #[arg(long, short, value_name = "[SOURCE:]CONTAINER[:OPTIONS]")]
    pub(crate) volume: Vec<String>,
    /// type=bind,source=PATH,target=PATH[,readonly], type=volume[,source=NAME],target=PATH[,readonly,
    /// volume-nocopy,volume-label=NAME=VALUE] or type=tmpfs,target=PATH[,tmpfs-size=SIZE]
    #[arg(long, value_name = "type=TYPE,...")]
    pub(crate) mount: Vec<String>,
    /// a file system in memory
    #[arg(long, value_name = "CONTAINER[:OPTIONS]")]
    pub(crate) tmpfs: Vec<String>,
    /// size of /dev/shm (default 64m)
    #[arg(long, value_name = "SIZE")]
    pub(crate) shm_size: Option<String>,
    /// nothing but mounts can be written to
    #[arg(long)]
    pub(crate) read_only: bool,

    /// bridge (root's default), none (else), host, or container:NAME
    #[arg(long, visible_alias = "net", value_name = "MODE")]
    pub(crate) network: Vec<String>,
    /// port of the host that leads to one of the container; ranges: 8000-8009:80-89
    #[arg(long, short, value_name = "[ADDRESS:][HOST]:CONTAINER[/PROTOCOL]")]
    pub(crate) publish: Vec<String>,
    /// publish all ports that the image exposes, at ports that are free
    #[arg(long, short = 'P')]
    pub(crate) publish_all: bool,
    /// address on the bridge
    #[arg(long, value_name = "ADDRESS")]
    pub(crate) ip: Option<String>,
    /// address of IPv6 on the bridge
    #[arg(long, value_name = "ADDRESS")]
    pub(crate) ip6: Option<String>,
    /// hardware address on the bridge
    #[arg(long, value_name = "ADDRESS")]
    pub(crate) mac_address: Option<String>,
    /// host name (default: the beginning of the ID)
    #[arg(long, short = 'h', value_name = "NAME")]
    pub(crate) hostname: Option<String>,
    /// NIS domain name
    #[arg(long, value_name = "NAME")]
    pub(crate) domainname: Option<String>,
    /// line of /etc/hosts; host-gateway stands for the host's address on the bridge
    #[arg(long, value_name = "NAME:ADDRESS")]
    pub(crate) add_host: Vec<String>,
    /// name server of /etc/resolv.conf
    #[arg(long, value_name = "ADDRESS")]
    pub(crate) dns: Vec<String>,
    /// domain that is searched
    #[arg(long, value_name = "DOMAIN")]
    pub(crate) dns_search: Vec<String>,
    /// option of the resolver
    #[arg(long, visible_alias = "dns-opt", value_name = "OPTION")]
    pub(crate) dns_option: Vec<String>,

    /// limit of memory
    #[arg(long, short, value_name = "SIZE")]
    pub(crate) memory: Option<String>,
    /// limit of memory and swap together; -1: none (default: twice the memory)
    #[arg(long, value_name = "SIZE", allow_hyphen_values = true)]
    pub(crate) memory_swap: Option<String>,
    /// memory that is kept under pressure
    #[arg(long, value_name = "SIZE")]
    pub(crate) memory_reservation: Option<String>,
    /// number of CPUs, such as 1.5
    #[arg(long, value_name = "NUMBER")]
    pub(crate) cpus: Option<String>,
    /// microseconds of a CPU period
    #[arg(long, value_name = "MICROSECONDS")]
    pub(crate) cpu_period: Option<u64>,
    /// microseconds of CPU time in a period
    #[arg(long, value_name = "MICROSECONDS", allow_hyphen_values = true)]
    pub(crate) cpu_quota: Option<i64>,
    /// weight among others (1024 is normal)
    #[arg(long, short = 'c', value_name = "WEIGHT")]
    pub(crate) cpu_shares: Option<u64>,
    /// CPUs that may be used
    #[arg(long, value_name = "LIST")]
    pub(crate) cpuset_cpus: Option<String>,
    /// memory nodes that may be used
    #[arg(long, value_name = "LIST")]
    pub(crate) cpuset_mems: Option<String>,
    /// number of processes; -1: no limit
    #[arg(long, value_name = "NUMBER", allow_hyphen_values = true)]
    pub(crate) pids_limit: Option<i64>,
    /// resource limit
    #[arg(long, value_name = "NAME=SOFT[:HARD]")]
    pub(crate) ulimit: Vec<String>,
    /// who is killed first when memory runs out, -1000 to 1000
    #[arg(long, value_name = "NUMBER", allow_hyphen_values = true)]
    pub(crate) oom_score_adj: Option<i32>,
    /// parent of the container's cgroup
    #[arg(long, value_name = "PATH")]
    pub(crate) cgroup_parent: Option<String>,

    /// give a capability, or ALL
    #[arg(long, value_name = "CAP")]
    pub(crate) cap_add: Vec<String>,
    /// take a capability, or ALL
    #[arg(long, value_name = "CAP")]
    pub(crate) cap_drop: Vec<String>,
    /// all capabilities and devices, no confinement: as root of the machine
    #[arg(long)]
    pub(crate) privileged: bool,
    /// no-new-privileges, seccomp=FILE|unconfined, apparmor=PROFILE, label=..., systempaths=unconfined
    #[arg(long, value_name = "OPTION")]
    pub(crate) security_opt: Vec<String>,
    /// device of the host: HOST[:CONTAINER][:rwm], or by CDI: VENDOR/CLASS=NAME
    #[arg(long, value_name = "DEVICE")]
    pub(crate) device: Vec<String>,
    /// rule for devices: 'c 10:229 rwm'
    #[arg(long, value_name = "RULE")]
    pub(crate) device_cgroup_rule: Vec<String>,
    /// GPUs by CDI: all, or a name
    #[arg(long, value_name = "GPUS")]
    pub(crate) gpus: Vec<String>,
    /// kernel parameter of the container's namespaces
    #[arg(long, value_name = "NAME=VALUE")]
    pub(crate) sysctl: Vec<String>,

    /// host (the default), auto[:size=N], keep-id, or CONTAINER:HOST:SIZE[,...]
    #[arg(long, value_name = "MODE")]
    pub(crate) userns: Option<String>,
    /// private (the default), host, none, or container:NAME
    #[arg(long, value_name = "MODE")]
    pub(crate) ipc: Option<String>,
    /// private (the default), host, or container:NAME
    #[arg(long, value_name = "MODE")]
    pub(crate) pid: Option<String>,
    /// private (the default) or host
    #[arg(long, value_name = "MODE")]
    pub(crate) uts: Option<String>,
    /// private (the default on cgroup2) or host
    #[arg(long, value_name = "MODE")]
    pub(crate) cgroupns: Option<String>,

    /// option of the log: max-size=SIZE, max-file=NUMBER; for `logs --details`: labels=NAME,... env=NAME,...
    #[arg(long, value_name = "NAME=VALUE")]
    pub(crate) log_opt: Vec<String>,
    /// json-file is what there is; none keeps nothing
    #[arg(long, value_name = "DRIVER")]
    pub(crate) log_driver: Option<String>,

    /// refused: no daemon would do it
    #[arg(long, value_name = "POLICY", hide = true)]
    pub(crate) restart: Option<String>,
}
