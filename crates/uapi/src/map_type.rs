//! Map types, with the names libbpf and bpftool use.

use crate::uapi_enum;

uapi_enum! {
    /// Map types, with the names libbpf and bpftool use.
    ///
    /// # Source
    /// `enum bpf_map_type` of linux/bpf.h, Linux 6.18.
    pub enum MapType {
        Unspec = 0, "BPF_MAP_TYPE_UNSPEC", "unspec";
        Hash = 1, "BPF_MAP_TYPE_HASH", "hash";
        Array = 2, "BPF_MAP_TYPE_ARRAY", "array";
        ProgArray = 3, "BPF_MAP_TYPE_PROG_ARRAY", "prog_array";
        PerfEventArray = 4, "BPF_MAP_TYPE_PERF_EVENT_ARRAY", "perf_event_array";
        PercpuHash = 5, "BPF_MAP_TYPE_PERCPU_HASH", "percpu_hash";
        PercpuArray = 6, "BPF_MAP_TYPE_PERCPU_ARRAY", "percpu_array";
        StackTrace = 7, "BPF_MAP_TYPE_STACK_TRACE", "stack_trace";
        CgroupArray = 8, "BPF_MAP_TYPE_CGROUP_ARRAY", "cgroup_array";
        LruHash = 9, "BPF_MAP_TYPE_LRU_HASH", "lru_hash";
        LruPercpuHash = 10, "BPF_MAP_TYPE_LRU_PERCPU_HASH", "lru_percpu_hash";
        LpmTrie = 11, "BPF_MAP_TYPE_LPM_TRIE", "lpm_trie";
        ArrayOfMaps = 12, "BPF_MAP_TYPE_ARRAY_OF_MAPS", "array_of_maps";
        HashOfMaps = 13, "BPF_MAP_TYPE_HASH_OF_MAPS", "hash_of_maps";
        Devmap = 14, "BPF_MAP_TYPE_DEVMAP", "devmap";
        Sockmap = 15, "BPF_MAP_TYPE_SOCKMAP", "sockmap";
        Cpumap = 16, "BPF_MAP_TYPE_CPUMAP", "cpumap";
        Xskmap = 17, "BPF_MAP_TYPE_XSKMAP", "xskmap";
        Sockhash = 18, "BPF_MAP_TYPE_SOCKHASH", "sockhash";
        CgroupStorageDeprecated = 19, "BPF_MAP_TYPE_CGROUP_STORAGE_DEPRECATED", "cgroup_storage";
        ReuseportSockarray = 20, "BPF_MAP_TYPE_REUSEPORT_SOCKARRAY", "reuseport_sockarray";
        PercpuCgroupStorageDeprecated = 21, "BPF_MAP_TYPE_PERCPU_CGROUP_STORAGE_DEPRECATED", "percpu_cgroup_storage";
        Queue = 22, "BPF_MAP_TYPE_QUEUE", "queue";
        Stack = 23, "BPF_MAP_TYPE_STACK", "stack";
        SkStorage = 24, "BPF_MAP_TYPE_SK_STORAGE", "sk_storage";
        DevmapHash = 25, "BPF_MAP_TYPE_DEVMAP_HASH", "devmap_hash";
        StructOps = 26, "BPF_MAP_TYPE_STRUCT_OPS", "struct_ops";
        Ringbuf = 27, "BPF_MAP_TYPE_RINGBUF", "ringbuf";
        InodeStorage = 28, "BPF_MAP_TYPE_INODE_STORAGE", "inode_storage";
        TaskStorage = 29, "BPF_MAP_TYPE_TASK_STORAGE", "task_storage";
        BloomFilter = 30, "BPF_MAP_TYPE_BLOOM_FILTER", "bloom_filter";
        UserRingbuf = 31, "BPF_MAP_TYPE_USER_RINGBUF", "user_ringbuf";
        CgrpStorage = 32, "BPF_MAP_TYPE_CGRP_STORAGE", "cgrp_storage";
        Arena = 33, "BPF_MAP_TYPE_ARENA", "arena";
    }
}
