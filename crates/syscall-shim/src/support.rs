//! The table of commands: where each one's last field ends, who serves it, what is missing. Documentation is made of it too.

use ring3_uapi::{Cmd, Errno};

use crate::{
    attach_cmd, batch, btf_cmd, id_cmd, info, link_cmd, map_cmd, pin, prog_cmd, shim::Call,
    small_cmd, test_run,
};

pub(crate) type Handler = fn(&mut Call<'_>) -> Result<i64, Errno>;

/// One command.
pub struct CommandSupport {
    /// The command.
    pub cmd: Cmd,
    /// Bytes up to the end of its last field: what lies behind must be zero.
    pub attr_bytes: usize,
    /// What is not served, empty for a command that is whole.
    pub missing: &'static str,
    pub(crate) handler: Handler,
}

macro_rules! commands {
    ($($cmd:ident, $bytes:literal, $handler:expr, $missing:literal;)*) => {
        /// Every command of Linux 6.18.
        ///
        /// # Source
        /// Ends of last fields: measured on Linux 6.18 by dirty bytes behind each field.
        pub const SUPPORT: &[CommandSupport] = &[$(CommandSupport {
            cmd: Cmd::$cmd,
            attr_bytes: $bytes,
            missing: $missing,
            handler: $handler,
        },)*];
    };
}

commands! {
    MapCreate, 92, map_cmd::create, "tokens, offload, struct_ops value types, exclusive programs";
    MapLookupElem, 32, map_cmd::lookup, "";
    MapUpdateElem, 32, map_cmd::update, "values that are cgroups, sockets or devices";
    MapDeleteElem, 16, map_cmd::delete, "";
    MapGetNextKey, 24, map_cmd::next_key, "";
    ProgLoad, 168, prog_cmd::load, "tokens, signatures, offload, attach_prog_fd of a program";
    ObjPin, 20, pin::pin, "";
    ObjGet, 20, pin::get, "";
    ProgAttach, 32, attach_cmd::prog_attach, "hooks other than tcx and cgroup skb";
    ProgDetach, 32, attach_cmd::prog_detach, "hooks other than tcx and cgroup skb";
    ProgTestRun, 76, test_run::test_run, "";
    ProgGetNextId, 8, id_cmd::next_prog, "";
    MapGetNextId, 8, id_cmd::next_map, "";
    ProgGetFdById, 4, id_cmd::prog_fd, "";
    MapGetFdById, 12, id_cmd::map_fd, "tokens";
    ObjGetInfoByFd, 16, info::info, "";
    ProgQuery, 64, attach_cmd::prog_query, "hooks other than tcx and cgroup skb";
    RawTracepointOpen, 24, attach_cmd::raw_tracepoint_open, "tracepoints other than those that the host declares";
    BtfLoad, 40, btf_cmd::load, "tokens";
    BtfGetFdById, 16, id_cmd::btf_fd, "tokens";
    TaskFdQuery, 48, small_cmd::task_fd_query, "probes";
    MapLookupAndDeleteElem, 32, map_cmd::lookup_and_delete, "";
    MapFreeze, 4, map_cmd::freeze, "";
    BtfGetNextId, 8, id_cmd::next_btf, "";
    MapLookupBatch, 56, batch::lookup, "";
    MapLookupAndDeleteBatch, 56, batch::lookup_and_delete, "";
    MapUpdateBatch, 56, batch::update, "";
    MapDeleteBatch, 56, batch::delete, "";
    LinkCreate, 60, attach_cmd::link_create, "hooks other than XDP, tcx, cgroup skb and functions; iterators other than over maps, elements of a map, programs and links";
    LinkUpdate, 16, link_cmd::update, "";
    LinkGetFdById, 4, link_cmd::fd_by_id, "";
    LinkGetNextId, 8, id_cmd::next_link, "";
    EnableStats, 4, small_cmd::enable_stats, "";
    IterCreate, 8, small_cmd::iter_create, "";
    LinkDetach, 4, link_cmd::detach, "";
    ProgBindMap, 12, small_cmd::prog_bind_map, "";
    TokenCreate, 8, small_cmd::token_create, "delegation: refused with EOPNOTSUPP";
    ProgStreamReadByFd, 20, small_cmd::stream_read, "";
}

/// The row of a command number.
pub(crate) fn find(cmd: u32) -> Option<&'static CommandSupport> {
    // Rows are in numeric order from 0, as a test says.
    SUPPORT.get(cmd as usize)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_command_has_one_row_in_numeric_order() {
        let listed: Vec<_> = SUPPORT.iter().map(|row| row.cmd).collect();
        assert_eq!(listed, Cmd::ALL);
        for (number, row) in SUPPORT.iter().enumerate() {
            assert_eq!(row.cmd.raw() as usize, number);
        }
    }
}
