//! The status LED: on while the dump is taken, off when it is safe to pull the plug.

use lifeboat_format::bootcfg::Led;
use linux_embedded_hal::CdevPin;
use linux_embedded_hal::gpio_cdev::{Chip, LineRequestFlags};

use crate::console::say;

/// A GPIO line, or nothing: a missing LED never stops a dump.
pub(crate) struct StatusLed {
    pin: Option<CdevPin>,
    active_low: bool,
}

impl StatusLed {
    /// Opens the line that the configuration names.
    pub(crate) fn open(led: Option<&Led>) -> Self {
        let Some(led) = led else { return Self { pin: None, active_low: false } };
        let pin = Chip::new(led.chip.as_str())
            .and_then(|mut chip| chip.get_line(led.line))
            .and_then(|line| {
                let off = u8::from(led.active_low);
                line.request(LineRequestFlags::OUTPUT, off, "lifeboat")
            })
            .and_then(CdevPin::new);
        match pin {
            Ok(pin) => Self { pin: Some(pin), active_low: led.active_low },
            Err(e) => {
                say!("LED {} line {}: {e}; going on without it", led.chip, led.line);
                Self { pin: None, active_low: false }
            }
        }
    }

    /// Switches it.
    pub(crate) fn set(&self, on: bool) {
        if let Some(pin) = &self.pin {
            let _ = pin.set_value(u8::from(on != self.active_low));
        }
    }
}
