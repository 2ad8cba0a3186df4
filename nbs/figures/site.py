"""Draw what the site itself needs: card.jpg, the picture that is shown where a link to a page is
shared; the two badges; the icon.

Run `python nbs/figures/site.py` from anywhere. The card is made from before_after.jpg.
"""
from pathlib import Path

HERE = Path(__file__).resolve().parent
FONT = 'font-family="Verdana,DejaVu Sans,Geneva,sans-serif" font-size="11"'
BADGES = {
    'badge_colab.svg': ('open in', 48, 'Colab', 44, '#8a5a00'),
    'badge_binder.svg': ('launch', 46, 'Binder', 46, '#2b6a9e')
}


def badge(left, w, right, v, colour):
    "A badge of two halves, `w` and `v` pixels wide."
    return f'''<svg xmlns="http://www.w3.org/2000/svg" width="{w+v}" height="20" viewBox="0 0 {w+v} 20" role="img" aria-label="{left} {right}">
<title>{left} {right}</title>
<rect width="{w+v}" height="20" rx="3" fill="{colour}"/>
<path d="M3 0H{w}V20H3A3 3 0 0 1 0 17V3A3 3 0 0 1 3 0Z" fill="#4a4f57"/>
<g fill="#fff" text-anchor="middle" {FONT}><text x="{w/2:g}" y="14">{left}</text><text x="{w+v/2:g}" y="14">{right}</text></g>
</svg>
'''

def favicon():
    "A square, half dark and half bright."
    return '''<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 32 32"><title>lowlight_nat</title>
<rect width="32" height="32" rx="6" fill="#1b2330"/><path d="M26 0A6 6 0 0 1 32 6V26A6 6 0 0 1 26 32H16V0Z" fill="#ffd76a"/>
<circle cx="16" cy="16" r="7" fill="#5b6675"/><path d="M16 9A7 7 0 0 1 16 23Z" fill="#a85f00"/></svg>
'''

def card():
    "1200x630: the name, one line, and the picture of the first page."
    from PIL import Image, ImageDraw, ImageFont
    picture = Image.open(HERE/'before_after.jpg', formats=['JPEG']).convert('RGB')
    picture = picture.resize((1200, picture.height*1200//picture.width), Image.LANCZOS)
    out = Image.new('RGB', (1200, 630), '#1b2330')
    out.paste(picture, (0, 630 - picture.height))
    draw = ImageDraw.Draw(out)
    draw.text((40, 22), 'lowlight_nat', fill='#ffd76a', font=ImageFont.load_default(64))
    draw.text((42, 104),
              'From a dark photograph to a bright one: a package, and the book it is written in',
              fill='white', font=ImageFont.load_default(29))
    return out


def main():
    for name, parts in BADGES.items(): (HERE/name).write_text(badge(*parts), encoding='utf-8')
    (HERE/'favicon.svg').write_text(favicon(), encoding='utf-8')
    card().save(HERE/'card.jpg', quality=82, optimize=True)


if __name__ == '__main__': main()
