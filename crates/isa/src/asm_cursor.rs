//! Tokens of a line of assembler text: the place in the line, words, numbers, registers, types, addresses, places of jumps.
//! Neighbour: `asm_line`, the grammar over them.

use alloc::format;
use alloc::string::String;

use crate::asm::AsmError;
use crate::{LoadMode, MemSize, Reg, Width};

/// A label as the place of a jump, call or function address.
pub(crate) struct Place<'a> {
    pub(crate) name: &'a str,
    pub(crate) column: u32,
}

/// The place of a jump as written.
pub(crate) enum Distance<'a> {
    Slots(i32),
    Label(Place<'a>),
}

/// A place in one line.
pub(crate) struct Cursor<'a> {
    text: &'a str,
    pub(crate) at: usize,
    line: u32,
}

fn is_word_start(c: char) -> bool {
    c.is_ascii_alphabetic() || c == '_'
}

fn is_word(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '_' || c == '.' || c == '$'
}

impl<'a> Cursor<'a> {
    pub(crate) fn new(text: &'a str, line: u32) -> Self {
        let comment = [text.find(';'), text.find("//")]
            .into_iter()
            .flatten()
            .min();
        let text = &text[..comment.unwrap_or(text.len())];
        let mut cursor = Cursor { text, at: 0, line };
        cursor.skip_spaces();
        cursor
    }

    pub(crate) fn line(&self) -> u32 {
        self.line
    }

    pub(crate) fn column(&self) -> u32 {
        self.text[..self.at].chars().count() as u32 + 1
    }

    pub(crate) fn error(&self, message: impl Into<String>) -> AsmError {
        AsmError {
            line: self.line,
            column: self.column(),
            message: message.into(),
        }
    }

    pub(crate) fn at_end(&self) -> bool {
        self.at == self.text.len()
    }

    pub(crate) fn rest(&self) -> &'a str {
        &self.text[self.at..]
    }

    pub(crate) fn skip_spaces(&mut self) {
        let rest = self.rest();
        self.at += rest.len() - rest.trim_start().len();
    }

    pub(crate) fn advance(&mut self, bytes: usize) {
        self.at += bytes;
        self.skip_spaces();
    }

    /// Takes a punctuation token.
    pub(crate) fn take(&mut self, token: &str) -> bool {
        let found = self.rest().starts_with(token);
        if found {
            self.advance(token.len());
        }
        found
    }

    pub(crate) fn expect(&mut self, token: &str) -> Result<(), AsmError> {
        if self.take(token) {
            Ok(())
        } else {
            Err(self.error(format!("expected '{token}'")))
        }
    }

    pub(crate) fn peek_word(&self) -> &'a str {
        let rest = self.rest();
        if !rest.starts_with(is_word_start) {
            return "";
        }
        &rest[..rest.find(|c| !is_word(c)).unwrap_or(rest.len())]
    }

    pub(crate) fn take_word(&mut self, word: &str) -> bool {
        let found = self.peek_word() == word;
        if found {
            self.advance(word.len());
        }
        found
    }

    pub(crate) fn expect_word(&mut self, word: &str) -> Result<(), AsmError> {
        if self.take_word(word) {
            Ok(())
        } else {
            Err(self.error(format!("expected '{word}'")))
        }
    }

    /// Takes `name:`.
    pub(crate) fn label(&mut self) -> Option<&'a str> {
        let word = self.peek_word();
        let after = self.rest()[word.len()..].trim_start();
        if word.is_empty() || !after.starts_with(':') {
            return None;
        }
        self.advance(word.len());
        self.advance(1);
        Some(word)
    }

    /// Takes `(0f)`.
    pub(crate) fn opcode_prefix(&mut self) -> Result<Option<u8>, AsmError> {
        let Some(digits) = self.rest().strip_prefix('(').and_then(|rest| rest.get(..2)) else {
            return Ok(None);
        };
        let closed = self.rest().as_bytes().get(3) == Some(&b')');
        match u8::from_str_radix(digits, 16) {
            Ok(code) if closed => {
                self.advance(4);
                Ok(Some(code))
            }
            _ => Err(self.error("expected an instruction or its opcode, as in '(07)'")),
        }
    }

    /// A number with an optional sign.
    pub(crate) fn number(&mut self) -> Result<i128, AsmError> {
        let start = self.at;
        let negative = self.take("-");
        if !negative {
            self.take("+");
        }
        let rest = self.rest();
        let (radix, digits) = match rest.strip_prefix("0x") {
            Some(hex) => (16, hex),
            None => (10, rest),
        };
        let length = digits
            .find(|c: char| !c.is_ascii_alphanumeric())
            .unwrap_or(digits.len());
        let digits = &digits[..length];
        match u64::from_str_radix(digits, radix) {
            Ok(value) if !digits.starts_with('+') => {
                self.advance(length + if radix == 16 { 2 } else { 0 });
                Ok(if negative {
                    -i128::from(value)
                } else {
                    i128::from(value)
                })
            }
            _ => {
                self.at = start;
                Err(self.error("expected a number of at most 64 bits"))
            }
        }
    }

    pub(crate) fn is_number(&self) -> bool {
        self.rest()
            .trim_start_matches(['-', '+'])
            .trim_start()
            .starts_with(|c: char| c.is_ascii_digit())
    }

    pub(crate) fn ranged<T: TryFrom<i128>>(&mut self, what: &str) -> Result<T, AsmError> {
        let (start, value) = (self.at, self.number()?);
        T::try_from(value).map_err(|_| {
            self.at = start;
            self.error(format!("{value} does not fit {what}"))
        })
    }

    /// A signed immediate; `Wide::No` also takes the unsigned reading of its 32 bits.
    pub(crate) fn imm32(&mut self, unsigned: bool) -> Result<i32, AsmError> {
        let (start, value) = (self.at, self.number()?);
        if let Ok(imm) = i32::try_from(value) {
            return Ok(imm);
        }
        if unsigned && let Ok(imm) = u32::try_from(value) {
            return Ok(imm as i32);
        }
        self.at = start;
        Err(self.error(format!(
            "{value} does not fit a sign-extended 32-bit immediate (64-bit values: 'r1 = {value} ll')"
        )))
    }

    /// `r3` or `w3`.
    pub(crate) fn register(&mut self) -> Result<(Width, Reg), AsmError> {
        let word = self.peek_word();
        let width = match word.as_bytes().first() {
            Some(b'r') => Width::W64,
            Some(b'w') => Width::W32,
            _ => return Err(self.error("expected a register")),
        };
        let digits = &word[1..];
        let plain = !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit());
        if !plain {
            return Err(self.error("expected a register"));
        }
        let reg = digits
            .parse()
            .ok()
            .and_then(Reg::new)
            .filter(|_| digits.len() < 3);
        let reg = reg
            .ok_or_else(|| self.error(format!("{word} is not a register: there are r0 to r11")))?;
        self.advance(word.len());
        Ok((width, reg))
    }

    pub(crate) fn is_register(&self) -> bool {
        let word = self.peek_word().as_bytes();
        matches!(word.first(), Some(b'r' | b'w'))
            && word.len() > 1
            && word[1..].iter().all(u8::is_ascii_digit)
    }

    pub(crate) fn register_of(&mut self, width: Width) -> Result<Reg, AsmError> {
        let start = self.at;
        let (found, reg) = self.register()?;
        if found == width {
            return Ok(reg);
        }
        self.at = start;
        let letter = width.letter();
        Err(self.error(format!(
            "expected a register '{letter}N', of this instruction's width"
        )))
    }

    pub(crate) fn wide_register(&mut self) -> Result<Reg, AsmError> {
        self.register_of(Width::W64)
    }

    /// `(u32 *)` or, with a leading star, `*(u32 *)`.
    pub(crate) fn cast(&mut self) -> Result<(LoadMode, MemSize), AsmError> {
        self.expect("(")?;
        let word = self.peek_word();
        let mode = match word.as_bytes().first() {
            Some(b'u') => LoadMode::ZeroExtend,
            Some(b's') => LoadMode::SignExtend,
            _ => return Err(self.error("expected a type: u8, u16, u32, u64, s8, s16 or s32")),
        };
        let size = word[1..].parse().ok().and_then(MemSize::from_bits);
        let size =
            size.ok_or_else(|| self.error("expected a type: u8, u16, u32, u64, s8, s16 or s32"))?;
        self.advance(word.len());
        self.expect("*")?;
        self.expect(")")?;
        Ok((mode, size))
    }

    /// `(r1 +8)`; the offset may be left out.
    pub(crate) fn address(&mut self) -> Result<(Reg, i16), AsmError> {
        self.expect("(")?;
        let base = self.wide_register()?;
        let off = if self.rest().starts_with(['+', '-']) {
            self.ranged("an offset of 16 bits")?
        } else {
            0
        };
        self.expect(")")?;
        Ok((base, off))
    }

    /// A place: a label, or a distance as `pc+3` or `+3`.
    pub(crate) fn place(&mut self) -> Result<Distance<'a>, AsmError> {
        if let Some(rest) = self.rest().strip_prefix("pc")
            && rest.starts_with(['+', '-'])
        {
            self.at += 2;
        }
        if self.rest().starts_with(['+', '-']) {
            return Ok(Distance::Slots(self.ranged("a distance of 32 bits")?));
        }
        let (column, name) = (self.column(), self.peek_word());
        if name.is_empty() {
            return Err(self.error("expected a label or a distance, as in 'pc+3'"));
        }
        self.advance(name.len());
        Ok(Distance::Label(Place { name, column }))
    }
}

/// The longest symbol of the table at the cursor.
pub(crate) fn longest<T: Copy>(
    c: &mut Cursor<'_>,
    all: &[T],
    symbol: impl Fn(T) -> &'static str,
) -> Option<T> {
    let found = all
        .iter()
        .copied()
        .filter(|op| c.rest().starts_with(symbol(*op)))
        .max_by_key(|op| symbol(*op).len())?;
    c.advance(symbol(found).len());
    Some(found)
}
