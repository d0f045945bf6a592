//! Writes BTF and kallsyms, as `pahole` and `scripts/kallsyms.c` do.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    dead_code,
    unreachable_pub,
    missing_docs,
    reason = "helpers of tests are tests too, and each test program uses its part"
)]

/// Types, in the making. Each method gives the number of the type that it adds.
#[derive(Default)]
pub struct Types {
    types: Vec<u8>,
    names: Vec<u8>,
    count: u32,
}

/// Kinds that the tests make.
pub const INT: u32 = 1;
pub const PTR: u32 = 2;
pub const ARRAY: u32 = 3;
pub const STRUCT: u32 = 4;
pub const UNION: u32 = 5;
pub const ENUM: u32 = 6;
pub const FWD: u32 = 7;
pub const TYPEDEF: u32 = 8;
pub const CONST: u32 = 10;
pub const ENUM64: u32 = 19;

impl Types {
    pub fn new() -> Self {
        Self { names: vec![0], ..Self::default() }
    }

    /// Where a name lies; each is there once.
    pub fn name(&mut self, name: &str) -> u32 {
        let mut at = 0;
        for known in self.names.split(|b| *b == 0) {
            if known == name.as_bytes() {
                return at;
            }
            at += u32::try_from(known.len() + 1).unwrap();
        }
        let at = u32::try_from(self.names.len()).unwrap();
        self.names.extend(name.bytes().chain([0]));
        at
    }

    fn put(&mut self, words: &[u32]) {
        self.types.extend(words.iter().flat_map(|w| w.to_le_bytes()));
    }

    fn head(&mut self, kind: u32, name: &str, vlen: usize, flag: bool, size_or_type: u32) -> u32 {
        let name = self.name(name);
        let vlen = u32::try_from(vlen).unwrap();
        self.put(&[name, u32::from(flag) << 31 | kind << 24 | vlen, size_or_type]);
        self.count += 1;
        self.count
    }

    pub fn int(&mut self, name: &str, size: u32) -> u32 {
        let id = self.head(INT, name, 0, false, size);
        self.put(&[size * 8]);
        id
    }

    /// Of any kind that has nothing behind its head.
    pub fn plain(&mut self, kind: u32, name: &str, to: u32) -> u32 {
        self.head(kind, name, 0, false, to)
    }

    pub fn array(&mut self, element: u32, length: u32) -> u32 {
        let id = self.head(ARRAY, "", 0, false, 0);
        self.put(&[element, 1, length]);
        id
    }

    /// A struct or union; members are name, type and place in bits.
    pub fn record(
        &mut self,
        kind: u32,
        name: &str,
        size: u32,
        members: &[(&str, u32, u32)],
    ) -> u32 {
        let names: Vec<u32> = members.iter().map(|(name, ..)| self.name(name)).collect();
        let id = self.head(kind, name, members.len(), false, size);
        for (name, (_, ty, bit)) in names.into_iter().zip(members) {
            self.put(&[name, *ty, *bit]);
        }
        id
    }

    /// One with bit fields: place and size in bits.
    pub fn bits(&mut self, name: &str, size: u32, members: &[(&str, u32, u32, u32)]) -> u32 {
        let names: Vec<u32> = members.iter().map(|(name, ..)| self.name(name)).collect();
        let id = self.head(STRUCT, name, members.len(), true, size);
        for (name, (_, ty, bit, bits)) in names.into_iter().zip(members) {
            self.put(&[name, *ty, bits << 24 | bit]);
        }
        id
    }

    pub fn enumeration(&mut self, name: &str, signed: bool, values: &[(&str, i32)]) -> u32 {
        let names: Vec<u32> = values.iter().map(|(name, _)| self.name(name)).collect();
        let id = self.head(ENUM, name, values.len(), signed, 4);
        for (name, (_, value)) in names.into_iter().zip(values) {
            self.put(&[name, value.cast_unsigned()]);
        }
        id
    }

    pub fn enumeration64(&mut self, name: &str, values: &[(&str, i64)]) -> u32 {
        let names: Vec<u32> = values.iter().map(|(name, _)| self.name(name)).collect();
        let id = self.head(ENUM64, name, values.len(), true, 8);
        for (name, (_, value)) in names.into_iter().zip(values) {
            let value = value.cast_unsigned();
            let half = |n: u64| u32::try_from(n & 0xffff_ffff).unwrap();
            self.put(&[name, half(value), half(value >> 32)]);
        }
        id
    }

    /// Header, types, names.
    pub fn build(&self) -> Vec<u8> {
        let len = |bytes: &[u8]| u32::try_from(bytes.len()).unwrap();
        let mut out = vec![0x9f, 0xeb, 1, 0];
        for word in [24, 0, len(&self.types), len(&self.types), len(&self.names)] {
            out.extend(word.to_le_bytes());
        }
        out.extend(&self.types);
        out.extend(&self.names);
        out
    }
}

/// How kallsyms tells addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    Absolute,
    Relative,
    PerCpu,
}

/// The tables of kallsyms.
pub struct Symbols {
    pub names: Vec<u8>,
    /// Where each 256th name begins.
    pub markers: Vec<u8>,
    pub tokens: Vec<u8>,
    pub index: Vec<u8>,
    /// Addresses, or offsets from [`Symbols::base`].
    pub addresses: Vec<u8>,
    pub base: u64,
    pub count: u32,
}

impl Symbols {
    /// Of these symbols, which must be sorted by address. Some tokens are of more than
    /// one character.
    pub fn new(form: Form, base: u64, symbols: &[(u64, &str)]) -> Self {
        const LONG: [(u8, &str); 4] = [(1, "_BTF"), (2, "__st"), (3, "Tinit_"), (4, "symbol_")];
        let mut this = Self {
            names: Vec::new(),
            markers: Vec::new(),
            tokens: Vec::new(),
            index: Vec::new(),
            addresses: Vec::new(),
            base,
            count: u32::try_from(symbols.len()).unwrap(),
        };
        for n in 0..=255u8 {
            this.index.extend(u16::try_from(this.tokens.len()).unwrap().to_le_bytes());
            match LONG.iter().find(|(number, _)| *number == n) {
                Some((_, token)) => this.tokens.extend(token.bytes()),
                None if n.is_ascii_graphic() => this.tokens.push(n),
                None => {}
            }
            this.tokens.push(0);
        }
        for (n, (address, name)) in symbols.iter().enumerate() {
            if n.is_multiple_of(256) {
                this.markers.extend(u32::try_from(this.names.len()).unwrap().to_le_bytes());
            }
            let mut left = format!("T{name}");
            let mut numbers = Vec::new();
            while let Some(first) = left.bytes().next() {
                let long = LONG.iter().find(|(_, token)| left.starts_with(token));
                let (number, len) = long.map_or((first, 1), |(n, token)| (*n, token.len()));
                numbers.push(number);
                left = left.split_off(len);
            }
            let len = numbers.len();
            if len < 128 {
                this.names.push(u8::try_from(len).unwrap());
            } else {
                this.names.push(u8::try_from(len & 0x7f | 0x80).unwrap());
                this.names.push(u8::try_from(len >> 7).unwrap());
            }
            this.names.extend(numbers);
            let offset = |n: u64| u32::try_from(n & 0xffff_ffff).unwrap().to_le_bytes();
            match form {
                Form::Absolute => this.addresses.extend(address.to_le_bytes()),
                Form::Relative => this.addresses.extend(offset(address.wrapping_sub(base))),
                // Small ones are per-CPU.
                Form::PerCpu if *address < 1 << 31 => this.addresses.extend(offset(*address)),
                Form::PerCpu => {
                    this.addresses.extend(offset(base.wrapping_sub(1).wrapping_sub(*address)));
                }
            }
        }
        this
    }
}
