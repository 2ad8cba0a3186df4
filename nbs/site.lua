-- Quarto shows the words in `![words](picture)` as a caption and gives the picture no alternative text.
-- Here they become the alternative text; a figure with an identifier keeps its caption beside it.
local words = pandoc.utils.stringify

function Image(img)
  if not img.attributes['fig-alt'] and #img.caption > 0 then img.attributes['fig-alt'] = words(img.caption) end
  img.attributes['alt'] = img.attributes['fig-alt']
  return img
end

function Figure(fig)
  local block = fig.content[1]
  if fig.identifier ~= '' or #fig.content ~= 1 or not block.content or #block.content ~= 1 then return nil end
  local img = block.content[1]
  if img.t ~= 'Image' then return nil end
  img.attributes['fig-alt'] = img.attributes['fig-alt'] or words(fig.caption.long)
  img.attributes['alt'] = img.attributes['fig-alt']
  img.caption = {}
  return pandoc.Para({img})
end

-- nbdev links a name to where the site will be published; on the site itself the page next door is meant.
local home = 'https://lowlight-nat.github.io/lowlight_nat/'

local letters = {tau = true}   -- in running text the threshold, not the experiment of that name

function Link(link)
  if link.target:sub(1, #home) ~= home then return nil end
  if #link.content == 1 and link.content[1].t == 'Code' and letters[link.content[1].text] then return link.content end
  local up = quarto and quarto.project and quarto.project.offset or '.'
  link.target = up .. '/' .. link.target:sub(#home + 1)
  return link
end
