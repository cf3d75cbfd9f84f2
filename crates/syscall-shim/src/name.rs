//! Names of programs and maps: 16 bytes of attributes to a name.

use ring3_uapi::{Errno, limits::OBJ_NAME_BYTES};

/// The bytes up to the NUL, as text; the text is `OBJ_NAME_BYTES` long, and so refused by whoever checks it, if there is no NUL.
pub(crate) fn unchecked_name(field: [u8; OBJ_NAME_BYTES]) -> String {
    let name = field.iter().take_while(|&&byte| byte != 0);
    name.map(|&byte| char::from(byte)).collect()
}

/// A name of letters, digits, `_` and `.`, NUL-terminated.
///
/// # Errors
/// EINVAL: another character, or no NUL.
pub(crate) fn checked_name(field: [u8; OBJ_NAME_BYTES]) -> Result<String, Errno> {
    let name = unchecked_name(field);
    let allowed = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '.';
    if name.len() < OBJ_NAME_BYTES && name.chars().all(allowed) {
        Ok(name)
    } else {
        Err(Errno::EINVAL)
    }
}
