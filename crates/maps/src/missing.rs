//! What maps of kernel objects lack outside of a kernel: the rows of docs/support.md.

use ring3_uapi::MapType;

/// Types that create, update, look up and err as in the kernel, and what happens with their content that is less than in a kernel.
pub const MISSING: &[(MapType, &str)] = &[
    (
        MapType::StackTrace,
        "build ids; traces are of the program's caller in this process",
    ),
    (
        MapType::PerfEventArray,
        "hardware and tracepoint events: events are software counters and rings of this library",
    ),
    (
        MapType::CgroupArray,
        "cgroups are what the host's `FdTable` or `CgroupArray::set` gives; bpf(2) knows none (EBADF)",
    ),
    (
        MapType::CgroupStorageDeprecated,
        "values exist for attachments that `CgroupStorage::attach` was told of",
    ),
    (MapType::PercpuCgroupStorageDeprecated, "as cgroup_storage"),
    (
        MapType::Devmap,
        "devices are those of `ring3::net`, given by its `FdTable`; bpf(2) knows none (EINVAL)",
    ),
    (MapType::DevmapHash, "as devmap"),
    (
        MapType::Cpumap,
        "queues and threads: a packet redirected to a CPU goes up the receiving device's stack at once, its program does not run",
    ),
    (
        MapType::Xskmap,
        "AF_XDP rings: a packet redirected to a socket goes to the sink of the run",
    ),
    (
        MapType::Sockmap,
        "parsers, verdicts and redirections of a socket's data; sockets are what the host's `FdTable` gives, bpf(2) knows none (EBADF)",
    ),
    (MapType::Sockhash, "as sockmap"),
    (
        MapType::ReuseportSockarray,
        "selection among sockets; sockets are what the host's `FdTable` gives",
    ),
    (
        MapType::SkStorage,
        "owners by descriptor: the host's `FdTable` names them; programs own what their contexts model",
    ),
    (MapType::InodeStorage, "as sk_storage"),
    (MapType::TaskStorage, "as sk_storage"),
    (MapType::CgrpStorage, "as sk_storage"),
    (
        MapType::UserRingbuf,
        "the two views of the data are two memories: a sample that crosses the end goes on in the second one, a sample behind a header at the very end \
         begins in the first, both as libbpf writes them",
    ),
    (
        MapType::StructOps,
        "subsystems: values are kept, registered and unregistered, and nothing calls them",
    ),
    (
        MapType::Hash,
        "without preallocation, elements deleted in one run are not reused in it: ENOMEM after a million (or 64 MiB of keys and values, at \
         least 1024)",
    ),
];
