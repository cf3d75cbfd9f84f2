//! The table of commands: where each one's last field ends, who serves it, what is missing. Documentation is made of it too.

use ring3_uapi::{Cmd, Errno};

use crate::{batch, btf_cmd, id_cmd, info, link_cmd, map_cmd, pin, prog_cmd, shim::Call, test_run};

pub(crate) type Handler = fn(&mut Call<'_>) -> Result<i64, Errno>;

/// One command.
pub struct CommandSupport {
    /// The command.
    pub cmd: Cmd,
    /// Bytes up to the end of its last field: what lies behind must be zero.
    pub attr_bytes: usize,
    /// What is not served yet, empty for a command that is whole.
    pub missing: &'static str,
    pub(crate) handler: Option<Handler>,
}

impl CommandSupport {
    /// Whether the command is served at all.
    pub fn is_served(&self) -> bool {
        self.handler.is_some()
    }
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
    MapCreate, 92, Some(map_cmd::create), "tokens, offload, struct_ops value types, exclusive programs";
    MapLookupElem, 32, Some(map_cmd::lookup), "";
    MapUpdateElem, 32, Some(map_cmd::update), "values that are perf events, cgroups, sockets or devices";
    MapDeleteElem, 16, Some(map_cmd::delete), "";
    MapGetNextKey, 24, Some(map_cmd::next_key), "";
    ProgLoad, 168, Some(prog_cmd::load), "tokens, signatures, offload, attach_prog_fd of a program";
    ObjPin, 20, Some(pin::pin), "path_fd";
    ObjGet, 20, Some(pin::get), "path_fd";
    ProgAttach, 32, None, "all";
    ProgDetach, 32, None, "all";
    ProgTestRun, 76, Some(test_run::test_run), "";
    ProgGetNextId, 8, Some(id_cmd::next_prog), "";
    MapGetNextId, 8, Some(id_cmd::next_map), "";
    ProgGetFdById, 4, Some(id_cmd::prog_fd), "";
    MapGetFdById, 12, Some(id_cmd::map_fd), "tokens";
    ObjGetInfoByFd, 16, Some(info::info), "run statistics, link details by type";
    ProgQuery, 64, None, "all";
    RawTracepointOpen, 24, None, "all";
    BtfLoad, 40, Some(btf_cmd::load), "tokens";
    BtfGetFdById, 16, Some(id_cmd::btf_fd), "tokens";
    TaskFdQuery, 48, None, "all";
    MapLookupAndDeleteElem, 32, Some(map_cmd::lookup_and_delete), "";
    MapFreeze, 4, Some(map_cmd::freeze), "";
    BtfGetNextId, 8, Some(id_cmd::next_btf), "";
    MapLookupBatch, 56, Some(batch::lookup), "";
    MapLookupAndDeleteBatch, 56, Some(batch::lookup_and_delete), "";
    MapUpdateBatch, 56, Some(batch::update), "";
    MapDeleteBatch, 56, Some(batch::delete), "";
    LinkCreate, 60, None, "all";
    LinkUpdate, 16, Some(link_cmd::update), "";
    LinkGetFdById, 4, Some(link_cmd::fd_by_id), "";
    LinkGetNextId, 8, Some(id_cmd::next_link), "";
    EnableStats, 4, None, "all";
    IterCreate, 8, None, "all";
    LinkDetach, 4, Some(link_cmd::detach), "";
    ProgBindMap, 12, None, "all";
    TokenCreate, 8, None, "all";
    ProgStreamReadByFd, 20, None, "all";
}

/// The row of a command number.
pub(crate) fn find(cmd: u32) -> Option<&'static CommandSupport> {
    SUPPORT.iter().find(|row| row.cmd.raw() == cmd)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_command_has_one_row_in_numeric_order() {
        let listed: Vec<_> = SUPPORT.iter().map(|row| row.cmd).collect();
        assert_eq!(listed, Cmd::ALL);
        for row in SUPPORT {
            assert!(row.is_served() || row.missing == "all", "{}", row.cmd);
        }
    }
}
