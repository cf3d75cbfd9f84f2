//! Commands of bpf(2).

use crate::uapi_enum;

uapi_enum! {
    /// Commands of bpf(2).
    ///
    /// # Source
    /// `enum bpf_cmd` of linux/bpf.h, Linux 6.18.
    pub enum Cmd {
        MapCreate = 0, "BPF_MAP_CREATE", "map_create";
        MapLookupElem = 1, "BPF_MAP_LOOKUP_ELEM", "map_lookup_elem";
        MapUpdateElem = 2, "BPF_MAP_UPDATE_ELEM", "map_update_elem";
        MapDeleteElem = 3, "BPF_MAP_DELETE_ELEM", "map_delete_elem";
        MapGetNextKey = 4, "BPF_MAP_GET_NEXT_KEY", "map_get_next_key";
        ProgLoad = 5, "BPF_PROG_LOAD", "prog_load";
        ObjPin = 6, "BPF_OBJ_PIN", "obj_pin";
        ObjGet = 7, "BPF_OBJ_GET", "obj_get";
        ProgAttach = 8, "BPF_PROG_ATTACH", "prog_attach";
        ProgDetach = 9, "BPF_PROG_DETACH", "prog_detach";
        ProgTestRun = 10, "BPF_PROG_TEST_RUN", "prog_test_run";
        ProgGetNextId = 11, "BPF_PROG_GET_NEXT_ID", "prog_get_next_id";
        MapGetNextId = 12, "BPF_MAP_GET_NEXT_ID", "map_get_next_id";
        ProgGetFdById = 13, "BPF_PROG_GET_FD_BY_ID", "prog_get_fd_by_id";
        MapGetFdById = 14, "BPF_MAP_GET_FD_BY_ID", "map_get_fd_by_id";
        ObjGetInfoByFd = 15, "BPF_OBJ_GET_INFO_BY_FD", "obj_get_info_by_fd";
        ProgQuery = 16, "BPF_PROG_QUERY", "prog_query";
        RawTracepointOpen = 17, "BPF_RAW_TRACEPOINT_OPEN", "raw_tracepoint_open";
        BtfLoad = 18, "BPF_BTF_LOAD", "btf_load";
        BtfGetFdById = 19, "BPF_BTF_GET_FD_BY_ID", "btf_get_fd_by_id";
        TaskFdQuery = 20, "BPF_TASK_FD_QUERY", "task_fd_query";
        MapLookupAndDeleteElem = 21, "BPF_MAP_LOOKUP_AND_DELETE_ELEM", "map_lookup_and_delete_elem";
        MapFreeze = 22, "BPF_MAP_FREEZE", "map_freeze";
        BtfGetNextId = 23, "BPF_BTF_GET_NEXT_ID", "btf_get_next_id";
        MapLookupBatch = 24, "BPF_MAP_LOOKUP_BATCH", "map_lookup_batch";
        MapLookupAndDeleteBatch = 25, "BPF_MAP_LOOKUP_AND_DELETE_BATCH", "map_lookup_and_delete_batch";
        MapUpdateBatch = 26, "BPF_MAP_UPDATE_BATCH", "map_update_batch";
        MapDeleteBatch = 27, "BPF_MAP_DELETE_BATCH", "map_delete_batch";
        LinkCreate = 28, "BPF_LINK_CREATE", "link_create";
        LinkUpdate = 29, "BPF_LINK_UPDATE", "link_update";
        LinkGetFdById = 30, "BPF_LINK_GET_FD_BY_ID", "link_get_fd_by_id";
        LinkGetNextId = 31, "BPF_LINK_GET_NEXT_ID", "link_get_next_id";
        EnableStats = 32, "BPF_ENABLE_STATS", "enable_stats";
        IterCreate = 33, "BPF_ITER_CREATE", "iter_create";
        LinkDetach = 34, "BPF_LINK_DETACH", "link_detach";
        ProgBindMap = 35, "BPF_PROG_BIND_MAP", "prog_bind_map";
        TokenCreate = 36, "BPF_TOKEN_CREATE", "token_create";
        ProgStreamReadByFd = 37, "BPF_PROG_STREAM_READ_BY_FD", "prog_stream_read_by_fd";
    }
}
